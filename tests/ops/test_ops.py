"""The functions in `ops/` give Caffe's numbers, and suit generated modules."""

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from caffe2flax.ops.check import check_shape
from caffe2flax.ops.normalization import lrn, lrn_within_channel
from caffe2flax.ops.pooling import avg_pool, max_pool
from caffe2flax.ops.shape import to_caffe_order
from caffe2flax.ops.window import pad_spatial

ROOT = Path(__file__).parents[2]
LAYERS = ROOT / "fixtures" / "layers"
PLATFORMS = ("cpu", "cuda", "tpu")
CORRUPT_GRADIENTS = {"pool_max_k1s3_ceil", "pool_max_k2s3_nopad"}
"""A window without a pixel has the mask -1: Caffe then writes its gradient outside the
channel, and aborts on a corrupted heap."""
LOWEST = float(np.finfo(np.float32).min)

Op = Callable[..., Array]
Pairs = tuple[tuple[int, int], ...]


def cases(*patterns: str) -> list[Any]:
    """The prototxts so named that Caffe runs; the others have no arrays."""
    paths = [p for name in patterns for p in sorted(LAYERS.glob(f"{name}.prototxt"))]
    return [pytest.param(p, id=p.stem) for p in paths if p.with_suffix(".npz").exists()]


def fields(path: Path) -> dict[str, str]:
    """The scalar fields of the one *_param of a case."""
    body = re.search(r"(?:pooling|lrn)_param \{(.*)\}", path.read_text(), re.DOTALL)
    return dict(re.findall(r"(\w+): (\S+)", body[1])) if body else {}


def last(x: np.ndarray) -> Array:
    """N, C, H, W -> N, H, W, C."""
    return jnp.asarray(np.moveaxis(x, 1, -1))


def close(actual: Array, expected: Any, bound: float = 1e-5) -> None:
    """Equal but for rounding; NaN and infinities where they are expected."""
    ours, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(ours[~finite], expected[~finite])
    scale = max(1e-6, float(np.abs(expected[finite]).max(initial=0)))
    worst = float(np.abs(ours[finite] - expected[finite]).max(initial=0))
    assert worst <= bound * scale, f"off by {worst / scale}"


def with_gradients(*ops: Op) -> Callable[..., Any]:
    """(top gradient, args) -> [(top, argument gradients)] of all ops, compiled once."""

    @jax.jit
    def run(g: Array, *args: Array) -> list[tuple[Array, tuple[Array, ...]]]:
        results = []
        for op in ops:
            y, pull = jax.vjp(op, *args)
            results.append((y, pull(g)))
        return results

    return run


def check_against_caffe(path: Path, op: Op, top: str) -> None:
    """Tops and gradients."""
    arrays = np.load(path.with_suffix(".npz"))
    x, y = last(arrays["input:data"]), arrays[f"output:{top}"]
    if path.stem in CORRUPT_GRADIENTS:
        close(op(x), last(y))
        return
    grads = np.load(path.with_suffix(".grad.npz"))
    ((ours, (gradient,)),) = with_gradients(op)(last(grads[f"topdiff:{top}"]), x)
    close(ours, last(y))
    close(gradient, last(grads["indiff:data"]))


@pytest.mark.parametrize("path", cases("pool_*"))
def test_pooling_is_caffes(path: Path) -> None:
    param = fields(path)
    arrays = np.load(path.with_suffix(".npz"))
    sizes, outs = (arrays[f"{k}"].shape[2:] for k in ("input:data", "output:out"))

    def per_axis(name: str, short: str, default: int) -> tuple[int, ...]:
        both = param.get(name, default)
        return tuple(int(param.get(f"{short}_{axis}", both)) for axis in "hw")

    window: tuple[int, ...] = sizes
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0)
    if "global_pooling" not in param:
        window = per_axis("kernel_size", "kernel", 0)
        strides = per_axis("stride", "stride", 1)
        pads = per_axis("pad", "pad", 0)
    ends = [(o - 1) * s + w for o, s, w in zip(outs, strides, window, strict=True)]
    beyond = [e - n - p for e, n, p in zip(ends, sizes, pads, strict=True)]
    if param.get("pool", "MAX") == "MAX":
        pairs = tuple((p, max(0, b)) for p, b in zip(pads, beyond, strict=True))
        op = partial(max_pool, window_shape=window, strides=strides, padding=pairs)
    else:
        over = tuple(max(0, b - p) for b, p in zip(beyond, pads, strict=True))
        op = partial(avg_pool, window=window, strides=strides, pad=pads, overhang=over)
    check_against_caffe(path, op, "out")


@pytest.mark.parametrize("path", cases("lrn_*"))
def test_lrn_is_caffes(path: Path) -> None:
    param = fields(path)
    if param.get("norm_region") == "WITHIN_CHANNEL":
        base: Op = lrn_within_channel
    else:
        base = partial(lrn, k=float(param.get("k", 1)))
    op = partial(
        base,
        size=int(param.get("local_size", 5)),
        alpha=float(param.get("alpha", 1)),
        beta=float(param.get("beta", 0.75)),
    )
    if path.stem == "lrn_inplace":  # Caffe loses its input: scale^(-2 beta)
        arrays = np.load(path.with_suffix(".npz"))
        x = last(arrays["input:data"])
        close((op(x) / x) ** 2, last(arrays["output:data"]))
        return
    check_against_caffe(path, op, "out")


@st.composite
def windowed(draw: st.DrawFn, deepest: int) -> tuple[Any, ...]:
    """Sizes, window, strides and pads of 1 to `deepest` axes, and a seed."""
    rank = draw(st.integers(1, deepest))
    window = [draw(st.integers(1, 3)) for _ in range(rank)]
    sizes = [draw(st.integers(w, 6)) for w in window]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [(draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    return tuple(sizes), tuple(window), tuple(strides), tuple(pads), rng


def pool_by_loop(
    x: np.ndarray, window: tuple[int, ...], strides: tuple[int, ...], pads: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """Caffe's loop: the maximum, and x's gradient of their sum."""
    low = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    sizes = [
        (n - w) // s + 1
        for n, w, s in zip(low.shape[1:-1], window, strides, strict=True)
    ]
    top = np.full((len(x), *sizes, x.shape[-1]), LOWEST)
    gradient = np.zeros(low.shape)
    for n, *at, c in np.ndindex(*top.shape):
        best = None
        for offset in np.ndindex(*window):
            where = [i * s + o for i, s, o in zip(at, strides, offset, strict=True)]
            if low[n, *where, c] > top[n, *at, c]:
                top[n, *at, c], best = low[n, *where, c], where
        if best is not None:
            gradient[n, *best, c] += 1
    inside = [slice(a, a + n) for (a, _), n in zip(pads, x.shape[1:-1], strict=True)]
    return top, gradient[:, *inside]


@given(windowed(3))
@settings(max_examples=10, deadline=None)
def test_max_pool_by_loop(drawn: Any) -> None:
    """Also where maxima tie, and where a window holds padding alone."""
    sizes, window, strides, pads, rng = drawn
    x = rng.choice(np.array([0, 0, 0, 1, 2, -1, np.inf], np.float32), (2, *sizes, 2))
    op = partial(max_pool, window_shape=window, strides=strides, padding=pads)
    expected, gradient = pool_by_loop(x, window, strides, pads)
    ones = np.ones(expected.shape, np.float32)
    ((y, (ours,)),) = with_gradients(op)(ones, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(ours, gradient)


@given(windowed(3), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_avg_pool_by_loop(drawn: Any, over: int) -> None:
    sizes, window, strides, pairs, rng = drawn
    pad = tuple(low for low, _ in pairs)
    x = rng.standard_normal((2, *sizes, 2), np.float32)
    ends = [n + 2 * p for n, p in zip(sizes, pad, strict=True)]
    outs = [
        (e + over - w) // s + 1 for e, w, s in zip(ends, window, strides, strict=True)
    ]
    padded = np.pad(x.astype(np.float64), [(0, 0), *((p, p) for p in pad), (0, 0)])
    expected = np.zeros((2, *outs, 2))
    for at in np.ndindex(*outs):
        starts = [i * s for i, s in zip(at, strides, strict=True)]
        stops = [min(a + w, e) for a, w, e in zip(starts, window, ends, strict=True)]
        cut = tuple(map(slice, starts, stops))
        size = np.float64(np.prod(np.subtract(stops, starts)))
        total = padded[:, *cut].reshape(2, -1, 2).sum(1)
        with np.errstate(invalid="ignore"):
            expected[:, *at] = total / size
    op = partial(avg_pool, window=window, strides=strides, pad=pad)
    close(jax.jit(partial(op, overhang=(over,) * len(pad)))(x), expected)


IMAGE = (5, 6, 6)
OPS: dict[str, Op] = {
    "max_pool": partial(max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME"),
    "avg_pool": partial(
        avg_pool, window=(3, 6), strides=(2, 1), pad=(1, 0), overhang=(1, 0)
    ),
    "lrn": partial(lrn, size=3, alpha=0.5, beta=0.75),
    "lrn_pow": partial(lrn, size=5, alpha=0.5, beta=0.6, k=2.0),
    "lrn_within_channel": partial(lrn_within_channel, size=3, alpha=0.5, beta=0.75),
    "to_caffe_order": partial(
        to_caffe_order, axis=-1, segments=(((2, 2), (1, 0)), ((2,), (0,)))
    ),
}


def argument(dtype: Any) -> Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, *IMAGE)), dtype)


@pytest.mark.parametrize("name", OPS)
def test_export_for_any_batch_and_platform(name: str) -> None:
    """Top and gradient, lowered once for every platform."""
    x = argument(jnp.float32)

    def both(x: Array) -> Any:
        y, pull = jax.vjp(OPS[name], x)
        return y, pull(y)

    (batch,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((batch, *IMAGE), x.dtype)
    exported = jax.export.export(jax.jit(both), platforms=PLATFORMS)(spec)
    jax.tree.map(lambda a, b: close(a, b), exported.call(x), jax.jit(both)(x))


@pytest.mark.parametrize("name", OPS)
def test_half_precision_and_vmap(name: str) -> None:
    """bfloat16 in and out; vmap is a loop."""
    x, op = argument(jnp.bfloat16), OPS[name]
    wide = x.astype(jnp.float32)
    pair = jnp.stack([wide, wide[::-1]])

    @jax.jit
    def run(x: Array, pair: Array) -> Any:
        gradient = jax.grad(lambda x: op(x).sum())(x)
        return op(x), gradient, op(wide), jax.vmap(op)(pair)

    half, gradient, full, stacked = run(x, pair)
    assert half.dtype == gradient.dtype == jnp.bfloat16
    close(half, full, 2.0**-7)
    close(stacked[0], full)
    close(stacked[1][::-1], full)


@pytest.mark.parametrize(
    ("sizes", "shape", "said"),
    [
        (("N", 5, 4, 3), (2, 5, 4, 3), ""),
        (("N", "H", "W", 3), (0, 9, 1, 3), ""),
        (("N", 7), (1, 7), ""),
        ((), (), ""),
        (("N", 7), (1, 8), "x must be (N, 7), not (1, 8)"),
        (("N", 7), (7,), "x must be (N, 7), not (7,); is the batch axis missing?"),
        ((2, 7), (1, 7), "x must be (2, 7), not (1, 7)"),
        (
            ("N", 5, 4, 3),
            (2, 3, 5, 4),
            "x must be (N, 5, 4, 3), not (2, 3, 5, 4); is this N, C, H, W, not "
            "N, H, W, C?",
        ),
        (("N", "H", "W", 3), (2, 3, 3, 3), ""),
        (
            ("N", "H", "W", 3),
            (3, 5, 3),
            "x must be (N, H, W, 3), not (3, 5, 3); is the batch axis missing?",
        ),
    ],
)
def test_check_shape(
    sizes: tuple[int | str, ...], shape: tuple[int, ...], said: str
) -> None:
    if not said:
        check_shape("x", jnp.zeros(shape), *sizes)
        return
    with pytest.raises(ValueError, match=re.escape(said) + "$"):
        check_shape("x", jnp.zeros(shape), *sizes)


@given(
    st.lists(
        st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    st.randoms(use_true_random=False),
    st.integers(-3, 2),
)
@settings(max_examples=20, deadline=None)
def test_to_caffe_order_undoes_what_was_stored(
    dims: list[list[int]], random: Any, axis: int
) -> None:
    perms = [tuple(random.sample(range(len(d)), len(d))) for d in dims]
    lengths = [int(np.prod(d)) for d in dims]
    indices = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    stored = np.concatenate(
        [
            i.reshape(d).transpose(p).ravel()
            for i, d, p in zip(indices, dims, perms, strict=True)
        ]
    )
    shape = [2, 3, 2]
    shape[axis] = sum(lengths)
    caffe = np.arange(np.prod(shape)).reshape(shape)
    segments = tuple((tuple(d), p) for d, p in zip(dims, perms, strict=True))
    run = jax.jit(partial(to_caffe_order, axis=axis, segments=segments))
    ours = run(jnp.asarray(np.take(caffe, stored, axis)))
    np.testing.assert_array_equal(ours, caffe)


def test_segments_must_fill_the_axis() -> None:
    with pytest.raises(ValueError, match=r"segments of \[4\] do not fill axis 1"):
        to_caffe_order(jnp.zeros((2, 5)), 1, (((2, 2), (1, 0)),))


def test_a_window_must_fit() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        pad_spatial(jnp.zeros((1, 5, 5, 2)), 0, (1, 9), (1, 1), ((0, 0), (1, 1)))


def test_sources_can_be_copied() -> None:
    """Modules of imports, functions and classes, under names that are unique."""
    names = []
    for path in sorted((ROOT / "caffe2flax" / "ops").glob("*.py")):
        source = ast.parse(path.read_text())
        for node in source.body[ast.get_docstring(source) is not None :]:
            kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
            assert isinstance(node, kinds), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
                names.append(node.name)
    assert len(names) == len(set(names))
