"""Normalization by the values of the blob itself, sums, and indices."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from caffe2flax.exports.onnx.activation import scaled, shifted
from caffe2flax.exports.onnx.program import Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.exports.onnx.window import mean
from caffe2flax.ir.layer import canonical_axis
from caffe2flax.ir.window import Window
from caffe2flax.layers.lrn import LRN
from caffe2flax.layers.normalization import MVN, Softmax
from caffe2flax.layers.reduce import ArgMax, Reduction


@writes(Softmax)
def softmax(at: Place, layer: Softmax) -> str:
    axis = canonical_axis(layer.softmax_axis, at.rank)
    return at.op("Softmax", at.x, axis=axis)


@writes(LRN)
def lrn(at: Place, layer: LRN) -> str:
    _, channels, *extents = at.shape
    # Of more than 2 C - 1 channels, or pixels, the others are zeros.
    size = min(layer.size, 2 * max(extents if layer.within else [channels]) - 1)
    share = (size / layer.size) ** (2 if layer.within else 1)
    layer = replace(layer, size=size, alpha=layer.alpha * share)
    if not layer.within and not layer.lossy:
        return at.op(
            "LRN",
            at.x,
            size=size,
            alpha=layer.alpha,
            beta=layer.beta,
            bias=layer.k,
        )
    squares = at.op("Mul", at.x, at.x)
    if layer.within:
        around = (Window(size, 1, size // 2),) * 2
        near = mean(at, squares, around, at.shape[2:], at.out[2:])
        base = shifted(at, scaled(at, near, layer.alpha, "alpha"), 1.0, "one")
        return at.op("Mul", at.x, at.op("Pow", base, at.constant("beta", -layer.beta)))
    # Pixels as columns of an image of one channel, whose rows are the channels.
    rows = at.reshape(squares, -1, 1, channels, prod(extents))
    around = (Window(size, 1, size // 2), Window(1))
    sizes = (channels, prod(extents))
    near = at.to_top(mean(at, rows, around, sizes, sizes))
    base = shifted(at, scaled(at, near, layer.alpha, "alpha"), layer.k, "k")
    return at.op("Pow", base, at.constant("beta", -2 * layer.beta))


@writes(MVN)
def mvn(at: Place, layer: MVN) -> str:
    axes = [1, 2, 3] if layer.across_channels else [2, 3]
    x = at.x if at.rank == 4 else at.to_top(at.x)
    top = at.op("Sub", x, at.op("ReduceMean", x, axes=axes))
    if not layer.normalize_variance:
        return top
    variance = at.op("ReduceMean", at.op("Mul", top, top), axes=axes)
    return at.op("Div", top, shifted(at, at.op("Sqrt", variance), layer.eps, "eps"))


@writes(Reduction)
def reduction(at: Place, layer: Reduction) -> str:
    first = canonical_axis(layer.first_axis, at.rank)
    axes = [*range(first, at.rank)]
    if layer.operation == "MEAN":
        top = at.op("ReduceMean", at.x, axes=axes, keepdims=0)
        return scaled(at, top, layer.coeff, "coeff")
    assert layer.operation in ("SUM", "ASUM", "SUMSQ"), layer.operation
    x = at.x
    if layer.operation != "SUM":
        absolute = layer.operation == "ASUM"
        x = at.op("Abs", x) if absolute else at.op("Mul", x, x)
    top = at.op("ReduceSum", x, at.integers("axes", *axes), keepdims=0)
    return scaled(at, top, layer.coeff, "coeff")


@writes(ArgMax)
def argmax(at: Place, layer: ArgMax) -> str:
    """Of equal entries ONNX has the one with the lower index first, Caffe the one with
    the larger: so the entries are turned around before, and the indices after."""
    if layer.axis is None:
        x, axis, count = at.op("Flatten", at.x, axis=1), 1, prod(at.shape[1:])
    else:
        axis = canonical_axis(layer.axis, at.rank)
        x, count = at.x, at.shape[axis]
    last = at.integers("last", count - 1)
    turned = at.op(
        "Slice",
        x,
        last,
        at.integers("end", -count - 1),
        at.integers("axis", axis),
        at.integers("step", -1),
    )
    top_k = at.integers("top_k", layer.top_k)
    values, places = at.ops("TopK", turned, top_k, outputs=2, axis=axis)
    indices = at.floats(at.op("Sub", last, places))
    if layer.axis is not None:
        return values if layer.values else indices
    if not layer.values:
        return at.to_top(indices)
    return at.to_top(at.op("Concat", indices, values, axis=1))
