"""Each rewrite is applied where it should be, gives the right numbers, and is not
applied elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax

from tests.cpu.common import drawn, numbers, same

Model = Callable[..., Any]


def conv(*args: Any, **options: Any) -> nnx.Conv:
    made = nnx.Conv(*args, kernel_init=drawn, rngs=nnx.Rngs(0), **options)
    if made.bias is not None:
        made.bias[...] = jnp.asarray(numbers(*made.bias.shape, seed=3))
    return made


def norm(channels: int) -> nnx.BatchNorm:
    made = nnx.BatchNorm(channels, rngs=nnx.Rngs(0), use_running_average=True)
    made.mean[...] = jnp.asarray(numbers(channels, seed=4))
    made.var[...] = jnp.asarray(numbers(channels, seed=5)) ** 2 + 0.1
    made.scale[...] = jnp.asarray(numbers(channels, seed=6))
    made.bias[...] = jnp.asarray(numbers(channels, seed=7))
    return made


def linear(*args: int) -> nnx.Linear:
    return nnx.Linear(*args, kernel_init=drawn, rngs=nnx.Rngs(0))


class Residual(nnx.Module):
    """conv, norm, conv, norm, plus what came in, ReLU."""

    def __init__(self, channels: int, turned: bool = False):
        self.conv1 = conv(channels, channels, (3, 3), use_bias=False)
        self.conv2 = conv(channels, channels, (3, 3), use_bias=False)
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.turned = turned

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return jnp.maximum(0, x + y) if self.turned else nnx.relu(y + x)


class Chain(nnx.Module):
    """One layer after another."""

    def __init__(self, *layers: Callable[[Array], Array]):
        self.layers = nnx.List(layers)

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x


def lrn(x: Array) -> Array:
    """As a sum over windows of channels, divided by the power."""
    sums = lax.reduce_window(
        x * x, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), [(0, 0)] * 3 + [(2, 2)]
    )
    return x / (1 + 2e-2 * sums) ** 0.75


def lrn_of_slices(x: Array) -> Array:
    squares = jnp.pad(jnp.square(x), [(0, 0)] * 3 + [(2, 2)])
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(5))
    return x * (1 + 2e-2 * near) ** -0.75


def mean_pool(x: Array) -> Array:
    return nnx.avg_pool(x, (3, 2), (2, 1), padding=((1, 1), (0, 1)))


TAIL = "convolution with what follows"
LINEAR = "dense layer with what follows"
ONE = "conv_general_dilated + add + max float32"

# name: the model, shapes of inputs, what explain says with oneDNN, and without
CASES: dict[str, tuple[Callable[[], Model], list[tuple[int, ...]], str, str]] = {
    "conv": (lambda: conv(3, 8, (3, 3)), [(2, 13, 14, 3)], "by oneDNN", "by XLA"),
    "relu": (
        lambda: Chain(conv(5, 8, (3, 3)), nnx.relu),
        [(2, 13, 14, 5)],
        ONE,
        ONE,
    ),
    "norm": (
        lambda: Chain(conv(4, 70, (3, 3)), norm(70), nnx.relu),
        [(1, 16, 15, 4)],
        "conv_general_dilated + add + sub + mul + add + max",
        "conv_general_dilated + add + sub + mul + add + max",
    ),
    "residual": (
        lambda: Residual(16),
        [(1, 16, 17, 16)],
        "conv_general_dilated + sub + mul + add + add + max",
        "conv_general_dilated + sub + mul + add + add + max",
    ),
    "residual turned": (
        lambda: Residual(16, turned=True),
        [(3, 16, 17, 16)],
        "conv_general_dilated + sub + mul + add + add + max",
        "conv_general_dilated + sub + mul + add + add + max",
    ),
    "pixel": (
        lambda: conv(20, 33, (1, 1)),
        [(2, 9, 9, 20)],
        "packed product of pixels",
        "product of pixels",
    ),
    "pixel strided": (
        lambda: conv(20, 33, (1, 1), strides=(2, 3)),
        [(1, 9, 10, 20)],
        "packed product of pixels",
        "product of pixels",
    ),
    "pixel of one output": (
        lambda: conv(20, 1, (1, 1)),
        [(1, 9, 10, 20)],
        "product of pixels by oneDNN",
        "product of pixels",
    ),
    "patches": (
        lambda: conv(256, 120, (3, 3), padding="VALID"),
        [(2, 5, 6, 256)],
        "packed product of patches",
        "patches",
    ),
    "rows": (
        lambda: conv(3, 24, (11, 11), strides=4, padding="VALID"),
        [(1, 67, 67, 3)],
        "convolution by oneDNN",
        "rows",
    ),
    "wide": (
        lambda: conv(40, 48, (5, 5)),
        [(2, 14, 14, 40)],
        "convolution by oneDNN",
        "wide",
    ),
    "winograd": (
        lambda: Chain(conv(128, 72, (3, 3)), nnx.relu),
        [(2, 35, 37, 128)],
        "Winograd, tiles of 6",
        "Winograd, tiles of 6",
    ),
    "winograd, small": (
        lambda: conv(256, 256, (3, 3), padding=((1, 0), (2, 1))),
        [(1, 14, 15, 256)],
        "Winograd, tiles of 4",
        "Winograd, tiles of 4",
    ),
    "groups": (
        lambda: conv(64, 96, (5, 5), feature_group_count=2),
        [(2, 13, 14, 64)],
        "convolution by oneDNN",
        "groups apart",
    ),
    "narrow groups": (
        lambda: conv(96, 48, (3, 3), feature_group_count=24, strides=2),
        [(1, 13, 14, 96)],
        "convolution by oneDNN",
        "8 groups in one, groups apart",
    ),
    "depthwise": (
        lambda: conv(24, 24, (3, 3), feature_group_count=24, strides=2),
        [(2, 13, 14, 24)],
        "shifted slices",
        "shifted slices",
    ),
    "depthwise, multiplied": (
        lambda: conv(6, 18, (3, 2), feature_group_count=6, kernel_dilation=2),
        [(2, 13, 14, 6)],
        "shifted slices",
        "shifted slices",
    ),
    "dilated": (
        lambda: conv(6, 18, (3, 2), kernel_dilation=2),
        [(2, 13, 14, 6)],
        "convolution by oneDNN",
        "convolution by XLA",
    ),
    "line": (
        lambda: conv(6, 18, (3,), strides=2),
        [(2, 200, 6)],
        "convolution by oneDNN",
        "convolution by XLA",
    ),
    "volume": (
        lambda: conv(6, 18, (3, 2, 3)),
        [(2, 7, 8, 9, 6)],
        "convolution by oneDNN",
        "convolution by XLA",
    ),
    "precision": (
        lambda: conv(3, 8, (3, 3), precision="highest"),
        [(2, 13, 14, 3)],
        TAIL,
        TAIL,
    ),
    "transposed": (
        lambda: nnx.ConvTranspose(5, 7, (4, 3), strides=2, rngs=nnx.Rngs(0)),
        [(2, 6, 7, 5)],
        "gaps passed over",
        "gaps passed over",
    ),
    "transposed, dilated": (
        lambda: nnx.ConvTranspose(
            5,
            7,
            (3, 3),
            (3, 2),
            padding="VALID",
            kernel_dilation=(1, 2),
            rngs=nnx.Rngs(0),
        ),
        [(1, 6, 7, 5)],
        "gaps passed over",
        "gaps passed over",
    ),
    "transposed groups": (
        lambda: conv(6, 12, (4, 4), input_dilation=2, padding=2, feature_group_count=3),
        [(2, 6, 7, 6)],
        "gaps passed over",
        "gaps passed over",
    ),
    "transposed depthwise": (
        lambda: conv(
            6,
            6,
            (4, 4),
            input_dilation=2,
            padding=((1, 3), (0, 2)),
            feature_group_count=6,
        ),
        [(2, 6, 7, 6)],
        "gaps passed over",
        "gaps passed over",
    ),
    "dense": (
        lambda: Chain(linear(300, 77), nnx.relu),
        [(3, 300)],
        "packed product",
        f"dot_general + add + max float32[3, 77]: {LINEAR}, product",
    ),
    "dense, one row": (
        lambda: linear(512, 77),
        [(1, 512)],
        "product in pieces",
        "product in pieces",
    ),
    "dense, no batch": (
        lambda: linear(512, 77),
        [(512,)],
        "product in pieces",
        "product in pieces",
    ),
    "dense, many axes": (
        lambda: linear(30, 20),
        [(2, 3, 4, 30)],
        "packed product",
        f"{LINEAR}, product",
    ),
    "dense, kernel turned": (
        lambda: lambda x: x @ jnp.asarray(numbers(20, 30)).T,
        [(4, 30)],
        "packed product",
        "product",
    ),
    "max pool": (
        lambda: lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((0, 1), (1, 1))),
        [(2, 12, 13, 5)],
        "windows as shifted slices",
        "windows as shifted slices",
    ),
    "mean pool": (
        lambda: (
            lambda x: lax.reduce_window(
                x,
                0.0,
                lax.add,
                (1, 3, 2, 1),
                (1, 2, 1, 1),
                [(0, 0), (1, 1), (0, 1), (0, 0)],
            )
        ),
        [(2, 12, 13, 5)],
        "windows as shifted slices",
        "windows as shifted slices",
    ),
    "whole pool": (
        lambda: lambda x: nnx.max_pool(x, (12, 13)),
        [(2, 12, 13, 5)],
        "windows as shifted slices",
        "windows as shifted slices",
    ),
    "lrn": (lambda: lrn, [(2, 5, 6, 9)], "pow + div", "pow + div"),
    "lrn of slices": (
        lambda: lrn_of_slices,
        [(2, 5, 6, 9)],
        "power of 3/4 by roots",
        "power of 3/4 by roots",
    ),
    "joined": (
        lambda: lambda x, y: jnp.concatenate([jnp.sin(x), jnp.cos(y)], axis=-1),
        [(2, 5, 6, 9), (2, 5, 6, 9)],
        "two arrays joined",
        "two arrays joined",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rewritten(name: str, tier: str) -> None:
    make, shapes, words, public_words = CASES[name]
    inputs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    forward = same(make(), *inputs)
    said = forward.explain(*inputs)
    assert (words if tier == "onednn" else public_words) in said
    if tier == "public":
        assert "oneDNN" not in said
        assert "packed" not in said


def test_thorough(tier: str) -> None:
    model, x = conv(64, 64, (3, 3)), numbers(1, 24, 24, 64)
    assert "Winograd" in same(model, x, thorough=True).explain(x)
    assert "Winograd" not in same(model, x).explain(x)


def test_layers_folded_in_any_order(tier: str) -> None:
    kernel = jnp.asarray(numbers(3, 3, 4, 8))
    layout = ("NHWC", "HWIO", "NHWC")
    a, b = (jnp.asarray(numbers(1, 1, 1, 8, seed=n)) for n in (1, 2))

    def model(x: Array) -> Array:
        y = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout
        )
        return jnp.maximum((3 + y * a - b) / 2 * b + a, 0)

    x = numbers(2, 9, 9, 4)
    said = same(model, x).explain(x)
    origin = "conv_general_dilated + mul + add + sub + div + mul + add + max float32"
    assert origin in said


def convolve(x: Array, kernel: Any, **options: Any) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    y: Array = lax.conv_general_dilated(
        x, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=layout, **options
    )
    return y


KERNEL = numbers(3, 3, 4, 4)


def infinite_scale(x: Array) -> Array:
    return convolve(x, KERNEL) * jnp.asarray([1.0, jnp.inf, 0.0, 2.0])[None, None, None]


def read_twice(x: Array) -> Array:
    y = convolve(x, KERNEL)
    return nnx.relu(y) + y


def given_back(x: Array) -> tuple[Array, Array]:
    y = convolve(x, KERNEL)
    return y, nnx.relu(y)


def doubled(x: Array) -> Array:
    y = convolve(x, KERNEL)
    return y + y


def number_first(x: Array) -> Array:
    return 1 - convolve(x, KERNEL)


def scaled_after_sum(x: Array) -> Array:
    return (convolve(x, KERNEL) + x) * 3


def wider_after(x: Array) -> Array:
    """One column, to which four are added."""
    y = convolve(x, KERNEL[..., :1])
    return y + jnp.asarray(numbers(1, 1, 1, 4))


def of_rows(x: Array) -> Array:
    """A number for each row where there are as many rows as channels."""
    y = x[:, 0, 0] @ jnp.asarray(numbers(4, 4))
    return y * jnp.asarray(numbers(4, 1, seed=1))


AS_THEY_ARE = [
    (infinite_scale, "mul float32[4, 4, 4, 4]"),
    (read_twice, "max float32"),
    (given_back, "max float32"),
    (doubled, "add float32"),
    (number_first, "sub float32"),
    (scaled_after_sum, "mul float32"),
    (wider_after, "add float32"),
    (of_rows, "mul float32"),
]


@pytest.mark.parametrize(
    ("model", "line"), AS_THEY_ARE, ids=[f.__name__ for f, _ in AS_THEY_ARE]
)
def test_kept_apart(model: Model, line: str, tier: str) -> None:
    """Operations that cannot be fused with a layer remain separate."""
    x = numbers(4, 4, 4, 4)
    lines = same(model, x).explain(x).splitlines()
    assert any(each.startswith(line) for each in lines)


def bfloat16_inside(x: Array) -> Array:
    y = convolve(x.astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16))
    return y.astype(jnp.float32)


def accumulated_in_bfloat16(x: Array) -> Array:
    preset = lax.DotAlgorithmPreset.BF16_BF16_F32
    y: Array = lax.dot(x[:, 0, 0], jnp.asarray(numbers(4, 3)), precision=preset)
    return y


def channels_first(x: Array) -> Array:
    kernel = jnp.asarray(numbers(5, 4, 3, 3))
    y: Array = lax.conv(x.transpose(0, 3, 1, 2), kernel, (1, 1), "SAME")
    return y


def kernel_is_an_input(x: Array) -> Array:
    return convolve(x, jnp.sin(x[:3, :3]))


def batch_groups(x: Array) -> Array:
    return convolve(x, numbers(3, 3, 4, 4), batch_group_count=2)


def pool_of_whole_numbers(x: Array) -> Array:
    return nnx.max_pool(x.astype(jnp.int32), (2, 2), (2, 2))


def dilated_pool(x: Array) -> Array:
    y: Array = lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 2, 2, 1),
        (1,) * 4,
        "VALID",
        window_dilation=(1, 2, 2, 1),
    )
    return y


def long_pool(x: Array) -> Array:
    wide = jnp.tile(x, (1, 4, 4, 1))
    return nnx.max_pool(wide, (9, 9), (1, 1))


def other_power(x: Array) -> Array:
    return jnp.abs(x) ** -0.7


def power_given_back(x: Array) -> tuple[Array, Array]:
    y = jnp.abs(x) ** 0.75
    return x / y, y


UNTOUCHED: list[Model] = [
    bfloat16_inside,
    accumulated_in_bfloat16,
    channels_first,
    kernel_is_an_input,
    batch_groups,
    pool_of_whole_numbers,
    dilated_pool,
    long_pool,
    other_power,
    power_given_back,
]


@pytest.mark.parametrize("model", UNTOUCHED, ids=lambda f: f.__name__)
def test_untouched(model: Model, tier: str) -> None:
    x = numbers(4, 4, 4, 4)
    said = same(model, x).explain(x)
    assert ":" not in said


def test_one_layer_called_twice(tier: str) -> None:
    """There is one jaxpr, whose variables have other values each time."""
    layer = linear(6, 6)

    @jax.jit
    def block(x: Array) -> Array:
        return nnx.relu(layer(x))

    x = numbers(3, 6)
    forward = same(lambda x: block(block(x)) + block(x), x)
    assert forward.explain(x).count("dot_general + add + max") == 3


def test_constants_are_computed_once_in_float64(tier: str) -> None:
    """(w + 1e8) - 1e8 is w of float64, and 0 of float32: what is folded is exact."""
    w = jnp.asarray(numbers(3) / 3)
    x = numbers(2, 3)
    import caffe2flax

    forward = caffe2flax.compile(lambda x: x * ((w + 1e4) - 1e4)[None])
    exact = x * np.asarray(w)
    assert np.abs(np.asarray(forward(x)) - exact).max() < 1e-6
    assert forward.explain(x) == "mul float32[2, 3]"


def test_zeros_are_not_kept(tier: str) -> None:
    """Large outputs of small inputs are computed at each call."""

    def model(x: Array) -> Array:
        return jnp.zeros((500, 500)).at[0, 0].set(x)

    assert "broadcast_in_dim float32[500, 500]" in same(model, np.float32(3)).explain(
        np.float32(3)
    )


def test_sums_by_two_channels_of_one_array() -> None:
    x = numbers(3, 4, 5, 6)
    same(lambda x: jnp.concatenate([x, x], axis=-1) + 1, x)
    same(lambda x: jnp.concatenate([x, x], axis=1), x)
