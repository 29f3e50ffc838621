"""The form for inference alone: prepared weights, the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import caffe2flax
from caffe2flax.errors import ConversionError
from caffe2flax.layers._prepared import POINTS, transformed
from caffe2flax.ops.winograd import WinogradConv, winograd_matrices
from tests.golden import distance
from tests.smallnets import expected, net, numbers, save

CLOSE = 2e-5
NORM = 'bottom: "{0}" top: "{1}" name: "{1}" type: "BatchNorm"'
SCALE = NORM.replace("BatchNorm", "Scale") + " scale_param {{ bias_term: {2} }}"


def conv(name: str, bottom: str, text: str) -> str:
    given = f'name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"'
    return f"{given} convolution_param {{ {text} }}"


def norm(channels: int, seed: int) -> list[np.ndarray]:
    mean, deviation = numbers(channels, seed=seed), numbers(channels, seed=seed + 1)
    return [2 * mean, 2 * deviation**2, np.array([2.0])]


def kernel(*shape: int, seed: int) -> np.ndarray:
    return numbers(*shape, seed=seed) / np.sqrt(np.prod(shape[1:]))


NETS = {
    "bn": (
        [conv("c", "x", "num_output: 5 kernel_size: 3"), NORM.format("c", "b")],
        {"c": [kernel(5, 3, 3, 3, seed=0), numbers(5, seed=1)], "b": norm(5, 2)},
        0,
    ),
    "bn_scale": (
        [
            conv("c", "x", "num_output: 4 kernel_size: 1 stride: 2 bias_term: false"),
            NORM.format("c", "b"),
            SCALE.format("b", "s", "true"),
        ],
        {
            "c": [kernel(4, 3, 1, 1, seed=0)],
            "b": norm(4, 2),
            "s": [numbers(4, seed=5), numbers(4, seed=6)],
        },
        0,
    ),
    "scale": (
        [
            conv("c", "x", "num_output: 6 kernel_size: 3 group: 3"),
            SCALE.format("c", "s", "false"),
        ],
        {
            "c": [kernel(6, 1, 3, 3, seed=0), numbers(6, seed=1)],
            "s": [numbers(6, seed=5)],
        },
        0,
    ),
    "winograd": (
        [
            conv("a", "x", "num_output: 64 kernel_size: 1"),
            conv("b", "a", "num_output: 72 kernel_size: 3 pad: 1 bias_term: false"),
            NORM.format("b", "n"),
            conv("c", "n", "num_output: 64 kernel_size: 3 group: 1"),
        ],
        {
            "a": [kernel(64, 3, 1, 1, seed=0), numbers(64, seed=1)],
            "b": [kernel(72, 64, 3, 3, seed=2)],
            "n": norm(72, 3),
            "c": [kernel(64, 72, 3, 3, seed=6), numbers(64, seed=7)],
        },
        2,
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [12, 23])
def test_numbers_stay(name: str, size: int, tmp_path: Path) -> None:
    layers, blobs, tiled = NETS[name]
    text = net(*layers, x=(2, 3, size, size))
    weights = save(tmp_path / "n.caffemodel", blobs)
    inputs = {"x": numbers(2, 3, size, size, seed=9)}
    true = expected(text, weights, inputs)
    ours = caffe2flax.run(text, weights, inputs, optimize=True)
    assert ours.keys() == true.keys()
    for blob, array in true.items():
        assert distance(ours[blob], array) < CLOSE
    conversion = caffe2flax.convert(text, weights, optimize=True)
    made = re.findall(
        r"self\.\w+ = (?:WinogradConv|winograd_conv)\(", conversion.source
    )
    assert len(made) == tiled
    assert "BatchNorm" not in conversion.source.partition("class ")[2]
    assert "For inference alone" in conversion.source
    assert "For inference alone" not in caffe2flax.convert(text, weights).source


def test_what_others_need_stays(tmp_path: Path) -> None:
    """A blob that leaves the module, and weights that two layers share."""
    shared = 'param { name: "w" } param { name: "v" }'
    text = net(
        conv("a", "x", "num_output: 3 kernel_size: 1") + shared,
        NORM.format("a", "m"),
        conv("b", "m", "num_output: 3 kernel_size: 1") + shared,
        NORM.format("b", "n"),
        conv("c", "n", "num_output: 3 kernel_size: 1"),
        NORM.format("c", "o"),
        x=(2, 3, 5, 5),
    )
    blobs = {
        "a": [kernel(3, 3, 1, 1, seed=0), numbers(3, seed=1)],
        "b": [kernel(3, 3, 1, 1, seed=0), numbers(3, seed=1)],
        "c": [kernel(3, 3, 1, 1, seed=2), numbers(3, seed=3)],
        **{name: norm(3, 4 + i) for i, name in enumerate("mno")},
    }
    weights = save(tmp_path / "n.caffemodel", blobs)
    inputs = {"x": numbers(2, 3, 5, 5)}
    true = expected(text, weights, inputs)
    ours = caffe2flax.run(text, weights, inputs, optimize=True)
    assert distance(ours["o"], true["o"]) < CLOSE
    tapped = caffe2flax.convert(text, weights, optimize=True, taps=["c"])
    assert tapped.source.count("nnx.BatchNorm,") + tapped.source.count(
        "nnx.BatchNorm("
    ) == caffe2flax.convert(text, weights).source.count("nnx.BatchNorm,")


def test_refusals(tmp_path: Path) -> None:
    layers, blobs, _ = NETS["bn"]
    text = net(*layers, x=(2, 3, 9, 9))
    weights = save(tmp_path / "n.caffemodel", blobs)
    with pytest.raises(ConversionError, match="give a weights file"):
        caffe2flax.convert(text, optimize=True)
    with pytest.raises(ConversionError, match="phase TEST"):
        caffe2flax.convert(text, weights, optimize=True, phase="TRAIN")
    dead = {**blobs, "b": [np.zeros(5), np.full(5, -1.0), np.ones(1)]}
    with pytest.raises(ConversionError, match="not finite"):
        caffe2flax.convert(
            text, save(tmp_path / "d.caffemodel", dead), optimize=True
        ).write(tmp_path)


@pytest.mark.parametrize(("tile", "window"), [(4, 3), (6, 3), (6, 5)])
def test_matrices(tile: int, window: int) -> None:
    """A^T ((G w) * (B^T x)) is the correlation of x and w."""
    inputs, filters, outputs = winograd_matrices(tile, window)
    x, w = np.random.default_rng(0).standard_normal((2, tile))
    w = w[:window]
    true = np.correlate(x, w, "valid")
    np.testing.assert_allclose(outputs @ ((filters @ w) * (inputs @ x)), true, 1e-12)
    square = np.einsum("ia,jb,ab->ij", filters, filters, np.outer(w, w))
    made = transformed(np.outer(w, w)[..., None, None], tile)[..., 0, 0]
    np.testing.assert_allclose(made, square, 1e-12)
    assert len(POINTS[tile]) == tile - 1


def prepared(tile: int) -> tuple[nnx.Module, jax.Array]:
    w = numbers(3, 3, 8, 16)
    module = WinogradConv(8, 16, 3, tile=tile, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(transformed(w, tile), jnp.float32)
    return module, jnp.asarray(w)


@pytest.mark.parametrize("tile", [4, 6])
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 40, 21)])
def test_operation(tile: int, shape: tuple[int, ...]) -> None:
    """Few and many tiles, whole or not, and any batch on any platform."""
    module, w = prepared(tile)
    x = jnp.asarray(numbers(*shape, 8))
    true = lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    call = jax.jit(lambda module, x: module(x))
    assert distance(np.asarray(call(module, x)), np.asarray(true)) < CLOSE
    (batch,) = jax.export.symbolic_shape("b")
    definition, state = nnx.split(module)
    any_batch = jax.jit(lambda state, x: nnx.merge(definition, state)(x))
    exported = jax.export.export(any_batch, platforms=["cpu", "cuda", "tpu"])(
        state, jax.ShapeDtypeStruct((batch, *shape[1:], 8), x.dtype)
    )
    assert distance(np.asarray(exported.call(state, x)), np.asarray(true)) < CLOSE


def test_half_precision_takes_the_convolution_itself() -> None:
    module, w = prepared(6)
    module.dtype = jnp.bfloat16
    x = jnp.asarray(numbers(2, 9, 9, 8))
    numbers_ = ("NHWC", "HWIO", "NHWC")
    true = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers_)
    half = module(x)
    assert half.dtype == jnp.bfloat16
    assert distance(np.asarray(half, np.float32), np.asarray(true)) < 2e-2
