"""Layers of sliding windows. Padding is always explicit: `auto_pad` and `ceil_mode` are
not the same in all programs that read ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.exports.onnx.program import Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.window import Window, overhang, pool_windows, reconcile
from caffe2flax.layers._fields import Sliding, windows
from caffe2flax.layers.convolution import (
    Convolution,
    Convolution3D,
    ConvolutionDepthwise,
    DepthwiseConvolution,
)
from caffe2flax.layers.deconvolution import Deconvolution
from caffe2flax.layers.im2col import Im2col
from caffe2flax.layers.pooling import Pooling, StochasticPooling
from caffe2flax.layers.spp import SPP

PIXEL = (Window(1),)
EVERYWHERE = {
    "MAX": "GlobalMaxPool",
    "AVE": "GlobalAveragePool",
    "AVE_EXC_PAD": "GlobalAveragePool",
}
"""The operations that pool the whole image."""


@writes(Convolution, ConvolutionDepthwise, DepthwiseConvolution, Convolution3D)
def convolution(at: Place, layer: Convolution) -> list[str]:
    return _convolved(at, "Conv", layer, _conv_pads(at, layer.sliding))


@writes(Deconvolution)
def deconvolution(at: Place, layer: Deconvolution) -> list[str]:
    spatial = layer.sliding.windows(at.shape)
    return _convolved(
        at, "ConvTranspose", layer, _pads([(w.pad, w.high) for w in spatial])
    )


def _conv_pads(at: Place, sliding: Sliding) -> list[int]:
    first = sliding.channel_axis(at.shape) + 1
    spatial = sliding.windows(at.shape)
    return _pads(reconcile(at.shape[first:], spatial, at.out[first:]).caffe)


def _pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The pads in ONNX's order. Raises ConversionError for negative ones."""
    if any(low < 0 or high < 0 for low, high in pairs):
        raise ConversionError("its negative pads cut pixels off")
    return [low for low, _ in pairs] + [high for _, high in pairs]


def _convolved(
    at: Place, type_: str, layer: Convolution | Deconvolution, pads: list[int]
) -> list[str]:
    spatial = layer.sliding.windows(at.shape)
    kernel = at.node.weights[0].shape
    given = [at.weight(0, "weight", None if spatial else (*kernel, 1))]
    given += [at.weight(1, "bias")] if layer.bias else []
    window = _window(spatial or PIXEL, pads or [0, 0], dilated=True)
    tops = []
    for top, x in enumerate(at.inputs):
        x, plain = _images(at, x, layer.sliding)
        y = at.op(type_, x, *given, group=layer.group, **window)
        tops.append(y if plain else at.to_top(y, top))
    return tops


def _images(at: Place, x: str, sliding: Sliding) -> tuple[str, bool]:
    """x with one axis before the channels and one or more after them, and whether it
    has these already."""
    axis = sliding.channel_axis(at.shape)
    spatial = at.shape[axis + 1 :]
    if axis == 1 and spatial:
        return x, True
    return at.reshape(x, -1, at.shape[axis], *(spatial or (1,))), False


def _window(
    spatial: Sequence[Window], pads: list[int], *, dilated: bool = False
) -> dict[str, list[int]]:
    attributes = {
        "kernel_shape": [w.kernel for w in spatial],
        "strides": [w.stride for w in spatial],
        "pads": pads,
    }
    if dilated:
        attributes["dilations"] = [w.dilation for w in spatial]
    return attributes


@writes(Im2col)
def im2col(at: Place, layer: Im2col) -> str:
    """A convolution in which each kernel has one 1."""
    spatial = layer.sliding.windows(at.shape)
    channels = at.shape[layer.sliding.channel_axis(at.shape)]
    kernel = [w.kernel for w in spatial]
    count = prod(kernel)
    at.check_room(channels, count, count)
    one = np.eye(count, dtype=np.float32).reshape(count, 1, *kernel)
    weight = at.constant("kernel", np.tile(one, (channels, *(1,) * (1 + len(kernel)))))
    x, plain = _images(at, at.x, layer.sliding)
    window = _window(spatial, _conv_pads(at, layer.sliding), dilated=True)
    y = at.op("Conv", x, weight, group=channels, **window)
    return y if plain else at.to_top(y)


@writes(Pooling)
def pooling(at: Place, layer: Pooling) -> list[str]:
    sizes, outs = at.shape[2:], at.out[2:]
    if layer.everywhere and layer.top_count == 1:
        return [at.op(EVERYWHERE[layer.method], at.x)]
    spatial = _pool_windows(layer, sizes)
    if layer.method == "AVE":
        return [mean(at, at.x, spatial, sizes, outs)]
    if layer.method == "AVE_EXC_PAD":
        window = _window(spatial, _pads(_padding(spatial, sizes, outs)))
        return [at.op("AveragePool", at.x, count_include_pad=0, **window)]
    assert layer.method == "MAX", layer.method
    if layer.top_count == 1:
        return [largest(at, at.x, spatial, sizes, outs)[0]]
    top, place = largest(at, at.x, spatial, sizes, outs, masked=True)
    plane = at.integers("plane", prod(sizes))
    return [top, at.floats(at.op("Mod", place, plane))]


def _pool_windows(layer: Pooling, sizes: Shape) -> tuple[Window, ...]:
    if layer.everywhere:
        return tuple(map(Window, sizes))
    given = windows(len(sizes), layer.kernel, layer.stride, layer.pad)
    return layer.sides.around(given, sizes)


@writes(StochasticPooling)
def stochastic(at: Place, layer: StochasticPooling) -> str:
    """The sum of the squares of each window by its sum, 0 where that is not
    positive."""
    if layer.training:
        raise ConversionError("it draws random numbers")
    sizes, outs = at.shape[2:], at.out[2:]
    spatial = _pool_windows(layer, sizes)
    squares = mean(at, at.op("Mul", at.x, at.x), spatial, sizes, outs)
    total = mean(at, at.x, spatial, sizes, outs)
    some = at.op("Greater", total, at.constant("zero", 0.0))
    divisor = at.op("Where", some, total, at.constant("one", 1.0))
    return at.op(
        "Where", some, at.op("Div", squares, divisor), at.constant("none", 0.0)
    )


@writes(SPP)
def spatial_pyramid(at: Place, layer: SPP) -> str:
    levels = []
    for spatial, outs in layer.levels(at.shape):
        if layer.method == "MAX":
            level, *_ = largest(at, at.x, spatial, at.shape[2:], outs)
        else:
            assert layer.method == "AVE", layer.method
            level = mean(at, at.x, spatial, at.shape[2:], outs)
        levels.append(level if layer.height == 1 else at.op("Flatten", level, axis=1))
    return levels[0] if layer.height == 1 else at.op("Concat", *levels, axis=1)


def largest(
    at: Place,
    x: str,
    spatial: tuple[Window, ...],
    sizes: Shape,
    outs: Shape,
    *,
    masked: bool = False,
) -> list[str]:
    """The largest value of each window, and with `masked` where it is. Raises
    ConversionError."""
    padding = _padding(spatial, sizes, outs)
    window = _window(spatial, _pads(padding))
    return at.ops("MaxPool", x, outputs=2 if masked else 1, **window)


def _padding(
    spatial: tuple[Window, ...], sizes: Shape, outs: Shape
) -> Sequence[tuple[int, int]]:
    padding = reconcile(sizes, spatial, outs)
    if padding.empty:
        raise ConversionError("a window has no pixel of the image")
    return padding.caffe


def mean(
    at: Place, x: str, spatial: tuple[Window, ...], sizes: Shape, outs: Shape
) -> str:
    """The mean of each window, with pads but without what lies beyond them. Raises
    ConversionError."""
    window = _window(spatial, _pads(_padding(spatial, sizes, outs)))
    padded = any(w.pads for w in spatial)
    over = any(map(overhang, sizes, spatial, outs))
    if not padded:
        return at.op("AveragePool", x, count_include_pad=0, **window)
    y = at.op("AveragePool", x, count_include_pad=1, **window)
    if not over:
        return y
    # Caffe counts pixels of the pad, not those beyond it.
    at.check_room(*outs)
    shares = np.ones((), np.float64)
    for size, w, out in zip(sizes, spatial, outs, strict=True):
        counted = [divisor for *_, divisor in pool_windows(size, w, out)]
        shares = np.multiply.outer(shares, w.kernel / np.array(counted))
    return at.op("Mul", y, at.constant("share", shares[None, None]))
