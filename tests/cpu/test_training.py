"""Functions that differentiate: each form of a derivative against XLA's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import caffe2flax
from caffe2flax.cpu import onednn, plans
from tests.cpu.common import ONEDNN, distance, numbers, without_onednn

TOLERANCE = 2e-6

Sizes = tuple[int, ...]
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
LAYOUTS = {3: ("NWC", "WIO", "NWC"), 4: NHWC, 5: ("NDHWC", "DHWIO", "NDHWC")}


def derivative(function: Callable[..., Array]) -> Callable[..., Any]:
    """A function of (gradient of the result, inputs): the result, and the gradients of
    the inputs."""

    def step(g: Array, *inputs: Array) -> Any:
        y, back = jax.vjp(function, *inputs)
        return y, back(g)

    return step


def compared(function: Callable[..., Array], *inputs: Array) -> list[str]:
    """What explain says of the derivative of a function, without what is XLA's, after a
    comparison of each output with jax.jit."""
    shape = jax.eval_shape(function, *inputs).shape
    g = jnp.asarray(numbers(*shape, seed=7))
    step = derivative(function)
    compiled = caffe2flax.compile(step)
    ours, plain = compiled(g, *inputs), jax.jit(step)(g, *inputs)
    assert distance(ours, plain) <= TOLERANCE
    lines = compiled.explain(g, *inputs).splitlines()
    return [line.partition(": ")[2] for line in lines if ": " in line]


# name: x, kernel, strides, padding, dilation, groups; words for the result, the
# gradient of the kernel and that of x, "" for XLA's own
CONVS: dict[str, tuple[Sizes, Sizes, int, Any, int, int, tuple[str, str, str]]] = {
    "one channel": (
        (2, 12, 12, 1),
        (5, 5, 1, 20),
        1,
        0,
        1,
        1,
        ("convolution by XLA", "product of patches by oneDNN", "wide"),
    ),
    "valid": (
        (2, 12, 12, 20),
        (5, 5, 20, 30),
        1,
        0,
        1,
        1,
        (
            "convolution by oneDNN",
            "product of patches by oneDNN",
            "convolution by oneDNN",
        ),
    ),
    "strides": (
        (2, 13, 14, 32),
        (3, 3, 32, 16),
        2,
        1,
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases, product of pixels"),
    ),
    "large strides": (
        (2, 20, 20, 3),
        (7, 7, 3, 16),
        3,
        0,
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases, patches"),
    ),
    "large strides, large patches": (
        (2, 23, 25, 3),
        (11, 10, 3, 8),
        3,
        (2, 1),
        1,
        1,
        ("convolution by oneDNN", "products of patches", "in phases"),
    ),
    "gaps between windows": (
        (2, 13, 14, 32),
        (2, 2, 32, 16),
        3,
        0,
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases, product of pixels"),
    ),
    "more padding than window": (
        (2, 9, 8, 8),
        (3, 3, 8, 16),
        2,
        3,
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases"),
    ),
    "uneven padding": (
        (2, 13, 14, 16),
        (3, 3, 16, 16),
        2,
        (0, 1),
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases, convolution"),
    ),
    "cropped": (
        (2, 13, 14, 16),
        (3, 3, 16, 16),
        1,
        (-2, -1),
        1,
        1,
        ("convolution by oneDNN", "product of patches", "convolution by oneDNN"),
    ),
    "pixels": (
        (2, 13, 14, 32),
        (1, 1, 32, 64),
        1,
        0,
        1,
        1,
        (
            "product of pixels by oneDNN",
            "product of pixels by oneDNN",
            "product of pixels by oneDNN",
        ),
    ),
    "pixels with strides": (
        (2, 13, 14, 32),
        (1, 1, 32, 64),
        2,
        0,
        1,
        1,
        ("product of pixels", "product of pixels", "in phases, product of pixels"),
    ),
    "pixels with padding": (
        (2, 6, 5, 32),
        (1, 1, 32, 16),
        1,
        1,
        1,
        1,
        ("product of pixels", "product of pixels", "product of pixels"),
    ),
    "all of x": (
        (2, 6, 6, 32),
        (6, 6, 32, 40),
        1,
        0,
        1,
        1,
        ("product by oneDNN", "product of patches", "convolution by oneDNN"),
    ),
    "large patches": (
        (2, 10, 10, 48),
        (3, 3, 48, 32),
        1,
        1,
        1,
        1,
        ("convolution by oneDNN", "products of patches", "convolution by oneDNN"),
    ),
    "dilated": (
        (2, 13, 14, 32),
        (3, 3, 32, 16),
        1,
        2,
        2,
        1,
        ("convolution by oneDNN", "convolution by XLA", "convolution by oneDNN"),
    ),
    "dilated, with strides": (
        (2, 13, 14, 8),
        (3, 3, 8, 16),
        2,
        2,
        2,
        1,
        ("convolution by oneDNN", "", "convolution by XLA"),
    ),
    "two groups": (
        (2, 13, 13, 32),
        (5, 5, 16, 48),
        1,
        2,
        1,
        2,
        ("groups apart, convolution", "groups apart, product", "groups apart, conv"),
    ),
    "groups with strides": (
        (2, 14, 14, 32),
        (3, 3, 8, 16),
        2,
        1,
        1,
        4,
        ("groups apart, patches", "groups apart, product", "groups apart, in phases"),
    ),
    "depthwise": (
        (2, 13, 14, 32),
        (3, 3, 1, 32),
        1,
        1,
        1,
        32,
        ("shifted slices", "sums for each tap", "shifted slices"),
    ),
    "depthwise with strides": (
        (2, 13, 14, 32),
        (3, 3, 1, 32),
        2,
        1,
        1,
        32,
        ("shifted slices", "sums for each tap", "in phases, shifted slices"),
    ),
    "depthwise, multiplied": (
        (2, 7, 8, 9),
        (2, 3, 1, 18),
        2,
        1,
        1,
        9,
        ("shifted slices", "groups apart, product", "groups apart, in phases"),
    ),
    "many groups": (
        (1, 5, 5, 260),
        (3, 3, 4, 130),
        1,
        1,
        1,
        65,
        ("", "", ""),
    ),
    "a line": (
        (2, 40, 6),
        (3, 6, 8),
        2,
        1,
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases"),
    ),
    "a volume": (
        (2, 6, 7, 8, 6),
        (3, 3, 3, 6, 8),
        2,
        1,
        1,
        1,
        ("convolution by oneDNN", "product of patches", "in phases"),
    ),
}


def conv_of(name: str, layout: Any) -> tuple[Callable[..., Array], Array, Array]:
    shape, window, stride, padding, dilation, groups, _ = CONVS[name]
    axes = len(shape) - 2
    x, kernel = numbers(*shape), numbers(*window, seed=1)
    if layout is NCHW:
        x, kernel = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    pair = padding if isinstance(padding, tuple) else (padding, padding)

    def conv(x: Array, kernel: Array) -> Array:
        y: Array = lax.conv_general_dilated(
            x,
            kernel,
            (stride,) * axes,
            [pair] * axes,
            rhs_dilation=(dilation,) * axes,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
        return y

    return conv, jnp.asarray(x), jnp.asarray(kernel)


@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "large patches" in name:
        monkeypatch.setattr(plans, "MOST_IN_PATCHES", 2**13)
    said = compared(*conv_of(name, LAYOUTS[len(CONVS[name][0])]))
    wanted = [word for word in CONVS[name][-1] if word]
    if not ONEDNN:
        return
    assert len(said) == len(wanted)
    assert all(line.startswith(w) for line, w in zip(said, wanted, strict=True)), said


@pytest.mark.parametrize("name", ["valid", "groups with strides", "pixels"])
def test_in_public_jax_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "available", without_onednn)
    said = compared(*conv_of(name, NHWC))
    assert len(said) == 3
    assert not any("oneDNN" in line for line in said)


@pytest.mark.parametrize("name", ["strides", "two groups", "depthwise with strides"])
def test_channels_first(name: str) -> None:
    assert len(compared(*conv_of(name, NCHW))) == 3


def transposed(x: Array, kernel: Array) -> Array:
    return lax.conv_transpose(x, kernel, (2, 2), "SAME")


def batch_groups(x: Array, kernel: Array) -> Array:
    y: Array = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, batch_group_count=2
    )
    return y


@pytest.mark.parametrize("function", [transposed, batch_groups])
def test_other_convolutions(function: Callable[..., Array]) -> None:
    x, kernel = (jnp.asarray(numbers(*n)) for n in ((4, 7, 8, 6), (3, 3, 6, 8)))
    compared(function, x, kernel)


def test_second_derivatives() -> None:
    conv, x, kernel = conv_of("strides", NHWC)

    def slope(x: Array, kernel: Array) -> Array:
        square = lambda x: jnp.square(conv(x, kernel)).sum()  # noqa: E731
        return jax.grad(square)(x)

    assert len(compared(slope, x, kernel)) >= 4


POOLS: dict[str, tuple[Sizes, Sizes, Sizes, Any, bool]] = {
    # x, window, strides, padding; whether it is rewritten
    "beside": ((2, 12, 12, 5), (1, 2, 2, 1), (1, 2, 2, 1), [(0, 0)] * 4, True),
    "over one another": (
        (2, 12, 13, 5),
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        [(0, 0), (0, 1), (1, 1), (0, 0)],
        True,
    ),
    "at every pixel": (
        (2, 9, 9, 5),
        (1, 3, 3, 1),
        (1, 1, 1, 1),
        [(0, 0), (1, 1), (1, 1), (0, 0)],
        True,
    ),
    "with gaps": ((1, 7, 9, 3), (1, 3, 2, 1), (1, 3, 4, 1), [(0, 0)] * 4, True),
    "channels first": ((2, 5, 9, 9), (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0)] * 4, True),
    "of channels": ((2, 4, 5, 9), (1, 1, 1, 3), (1, 1, 1, 2), [(0, 0)] * 4, True),
    "a line": ((2, 11, 5), (1, 3, 1), (1, 2, 1), [(0, 0), (1, 0), (0, 0)], True),
    "large": ((1, 12, 12, 3), (1, 6, 6, 1), (1, 6, 6, 1), [(0, 0)] * 4, False),
}


@pytest.mark.parametrize("name", POOLS)
def test_maxima(name: str) -> None:
    """Of equal numbers the first of a window gets the gradient."""
    shape, window, strides, padding, rewritten = POOLS[name]

    def pool(x: Array) -> Array:
        y: Array = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
        return y

    said = compared(pool, jnp.asarray(np.round(numbers(*shape) * 2)))
    assert ("maxima by shifted slices" in said) == rewritten


def test_what_stays() -> None:
    """Other types, other selections."""

    def half(x: Array, kernel: Array) -> Array:
        y = conv(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        return y.astype(jnp.float32)

    def least(x: Array) -> Array:
        y: Array = lax.reduce_window(
            x, jnp.inf, lax.min, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
        )
        return y

    conv, x, kernel = conv_of("strides", NHWC)
    with jax.numpy_dtype_promotion("standard"):
        assert compared(half, x, kernel) == []
    assert compared(least, x) == []


def test_inside_other_functions() -> None:
    """The plain function where it is traced, differentiated or mapped."""
    conv, x, kernel = conv_of("strides", NHWC)
    step = derivative(conv)
    g = jnp.asarray(numbers(*conv(x, kernel).shape))
    compiled = caffe2flax.compile(step)
    assert distance(jax.jit(compiled)(g, x, kernel), step(g, x, kernel)) <= TOLERANCE
    many = jax.vmap(compiled, (0, None, None))(g[None], x, kernel)
    assert distance(many[1][0][0], step(g, x, kernel)[1][0]) <= TOLERANCE
    slope = jax.grad(lambda k: compiled(g, x, k)[1][0].sum())(kernel)
    plain = jax.grad(lambda k: step(g, x, k)[1][0].sum())(kernel)
    assert distance(slope, plain) <= TOLERANCE


def test_images_through_fixed_weights() -> None:
    """The gradient of an input, by weights that the function owns."""
    conv, x, kernel = conv_of("strides", NHWC)

    def step(x: Array) -> Any:
        return jax.value_and_grad(lambda x: jnp.square(conv(x, kernel)).sum())(x)

    compiled = caffe2flax.compile(step)
    assert distance(compiled(x), jax.jit(step)(x)) <= TOLERANCE
    assert ("oneDNN" in compiled.explain(x)) == onednn.available("convolution")
    assert "in phases" in compiled.explain(x)


def test_powers(tier: str) -> None:
    """Of LRN and its derivative."""

    def lrn(x: Array) -> Array:
        wide = jnp.pad(jnp.square(x), [(0, 0)] * 3 + [(2, 2)])
        near = sum(wide[..., i : i + x.shape[-1]] for i in range(5))
        pooled: Array = lax.reduce_window(
            x * (1 + 2e-2 * near) ** -0.75,
            -jnp.inf,
            lax.max,
            (1, 2, 2, 1),
            (1, 2, 2, 1),
            "SAME",
        )
        return pooled

    said = compared(lrn, jnp.asarray(numbers(2, 6, 6, 9)))
    assert said.count("power of 3/4 by roots") == 2


def test_numbers_of_a_weak_type() -> None:
    """A learning rate that a step returns does not undo the rest."""
    conv, x, kernel = conv_of("strides", NHWC)

    def step(x: Array, rate: float) -> Any:
        slope = jax.grad(lambda x: jnp.square(conv(x, kernel)).sum())(x)
        return x - rate * slope, rate * 2

    compiled = caffe2flax.compile(step)
    y, rate = compiled(x, 0.1)
    plain, _ = jax.jit(step)(x, 0.1)
    assert distance(y, plain) <= TOLERANCE
    assert float(rate) == np.float32(0.2)
    assert "in phases" in compiled.explain(x, 0.1)
