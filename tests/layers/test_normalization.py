"""MVN, Softmax and LRN, against Caffe's arithmetic in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from caffe2flax.ops.normalization import lrn_in_place, mvn
from tests.golden import distance
from tests.smallnets import net, numbers, run, single

MVNS = [
    ((), "", ()),
    ((4,), "across_channels: true", ()),
    ((2, 3), "across_channels: true", (1,)),
    ((2, 3), "", ()),
    ((2, 3, 4), "", (2,)),
    ((2, 3, 4), "across_channels: true eps: 0.5", (1, 2)),
    ((2, 3, 4, 5), "normalize_variance: false", (2, 3)),
    ((2, 3, 4, 5), "normalize_variance: false across_channels: true", (1, 2, 3)),
    ((2, 3, 4, 5), "across_channels: true eps: 2", (1, 2, 3)),
]


@pytest.mark.parametrize(("shape", "fields", "axes"), MVNS)
def test_mvn(shape: tuple[int, ...], fields: str, axes: tuple[int, ...]) -> None:
    """Its top has four axes, whatever its bottom has."""
    x = numbers(*shape)
    wanted = x - x.mean(axes, keepdims=True) if axes else np.zeros_like(x)
    eps = float(fields.partition("eps: ")[2] or 1e-9)
    if axes and "normalize_variance" not in fields:
        wanted /= x.std(axes, keepdims=True) + eps
    text = net(single("MVN", f"mvn_param {{ {fields} }}"), x=shape)
    y = run(text, x=x)
    assert y.shape == shape + (1,) * (4 - len(shape))
    assert distance(y.reshape(shape), wanted) <= 1e-5


def test_the_gradient_of_mvn_counts_eps_as_deviation() -> None:
    x, above = numbers(2, 5), numbers(2, 5, seed=1)
    x[1] = 2.5
    ours = jax.grad(lambda x: (mvn(x, (1,), 0.3) * above).sum())(jnp.asarray(x))
    deviation = x.std(1, keepdims=True) + 0.3
    y = (x - x.mean(1, keepdims=True)) / deviation
    part = above - above.mean(1, keepdims=True) - y * (y * above).mean(1, keepdims=True)
    assert distance(np.asarray(ours), part / deviation) <= 1e-5
    twice = jax.vmap(lambda x: mvn(x, (0,), 0.3))(jnp.asarray(x))
    assert distance(np.asarray(twice), y) <= 1e-6


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((5,), 0),
        ((2, 3, 4), -1),
        ((2, 3, 4, 5), 3),
        ((2, 3, 4, 5), -4),
        ((2, 3, 2, 2, 2), 2),
        ((2, 1, 3), 1),
    ],
)
def test_softmax_on_any_axis(shape: tuple[int, ...], axis: int) -> None:
    x = numbers(*shape) * 30
    powers = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    text = net(single("Softmax", f"softmax_param {{ axis: {axis} }}"), x=shape)
    assert distance(run(text, x=x), powers / powers.sum(axis, keepdims=True)) <= 1e-5


def neighbours(x: np.ndarray, size: int) -> np.ndarray:
    """Sums over `size` channels around each."""
    half = size // 2
    return np.stack(
        [x[:, max(0, c - half) : c + half + 1].sum(1) for c in range(x.shape[1])],
        1,
    )


@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"),
    [(1, 1.0, 0.75, 1.0), (3, 2.0, 0.5, 2.0), (5, 0.1, 1.25, 0.5), (7, -0.01, -1, 1)],
)
def test_lrn_across_channels(size: int, alpha: float, beta: float, k: float) -> None:
    x = numbers(2, 4, 2, 3)
    scale = k + alpha / size * neighbours(np.square(x, dtype=np.float64), size)
    fields = f"local_size: {size} alpha: {alpha} beta: {beta} k: {k}"
    text = net(single("LRN", f"lrn_param {{ {fields} }}"), x=x.shape)
    assert distance(run(text, x=x), x * scale**-beta) <= 1e-5

    text = net(single("LRN", f"lrn_param {{ {fields} }}", top="x"), x=x.shape)
    y = scale ** (-2 * beta)
    assert distance(run(text, x=x), y) <= 1e-5
    assert any("LRN in place" in note for note in caffe2flax.convert(text).notes)

    # Caffe writes the gradient where it reads that of its top, which is lost.
    left = y - 2 * alpha * beta / size * y * neighbours(y * y / scale, size)
    options = {"size": size, "alpha": alpha, "beta": beta, "k": k}
    for above in (1.0, -3.0):
        ours = jax.grad(lambda x: (above * lrn_in_place(x, **options)).sum())(  # noqa: B023
            jnp.moveaxis(jnp.asarray(x), 1, -1)
        )
        assert distance(np.moveaxis(np.asarray(ours), -1, 1), left) <= 1e-4


@pytest.mark.parametrize("size", [1, 3, 9])
@pytest.mark.parametrize("top", ["x", "y"])
def test_lrn_within_a_channel(size: int, top: str) -> None:
    """In place, too, and with a window larger than the image."""
    x = numbers(2, 3, 4, 5)
    half = size // 2
    squares = np.pad(np.square(x, dtype=np.float64), [(0, 0)] * 2 + [(half, half)] * 2)
    view = np.lib.stride_tricks.sliding_window_view(squares, (size, size), (2, 3))
    wanted = x * (1 + 0.5 * view.mean((-1, -2))) ** -0.75
    fields = f"local_size: {size} alpha: 0.5 k: 7 norm_region: WITHIN_CHANNEL"
    text = net(single("LRN", f"lrn_param {{ {fields} }}", top=top), x=x.shape)
    assert distance(run(text, x=x), wanted) <= 1e-5


REFUSED = [
    ("MVN", "", (1, 2, 1, 1, 1), "at most 4 axes"),
    ("Softmax", "softmax_param { axis: 2 }", (2, 3), "axis 2 is out of range"),
    ("Softmax", "", (3,), "axis 1 is out of range"),
    ("LRN", "lrn_param { local_size: 4 }", (1, 2, 3, 3), "must be odd"),
    ("LRN", "lrn_param { local_size: 0 }", (1, 2, 3, 3), "must be odd"),
    ("LRN", "", (2, 3), "4 axes"),
]


@pytest.mark.parametrize(("type_", "parameters", "shape", "message"), REFUSED)
def test_refusals(
    type_: str, parameters: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net(single(type_, parameters), x=shape))
