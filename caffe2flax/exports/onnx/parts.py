"""Layers that join, cut, choose or repeat."""

from __future__ import annotations

from functools import reduce

from caffe2flax.exports.onnx.activation import scaled
from caffe2flax.exports.onnx.program import BOOL, Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.ir.layer import canonical_axis
from caffe2flax.layers.combine import Concat, Eltwise
from caffe2flax.layers.crop import Crop
from caffe2flax.layers.items import BatchReindex, Filter
from caffe2flax.layers.parts import Silence, Slice, Split, Tile

OPERATIONS = {"PROD": "Mul", "MAX": "Max", "MIN": "Min", "DIV": "Div"}
"""Those of Eltwise beside SUM."""


@writes(Eltwise)
def eltwise(at: Place, layer: Eltwise) -> str:
    inputs = list(at.inputs)
    if len(at.shapes[1]) < at.rank:
        first = canonical_axis(layer.axis, at.rank) if at.shapes[1] else 0
        inputs[1] = at.along("axes", inputs[1], first, len(at.shapes[1]))
    if layer.operation != "SUM":
        kind = OPERATIONS[layer.operation]
        return reduce(lambda x, y: at.op(kind, x, y), inputs)
    terms = [*zip(inputs, layer.coeff, strict=True)]
    # In place a sum loses its first bottom, whose coefficient is 0 then.
    terms = [term for term in terms if term[1]] or terms[:1]
    given = [scaled(at, x, coeff, "coeff") for x, coeff in terms]
    return reduce(lambda x, y: at.op("Add", x, y), given)


@writes(Concat)
def concat(at: Place, layer: Concat) -> str:
    if len(at.inputs) == 1:
        return at.x
    return at.op("Concat", *at.inputs, axis=canonical_axis(layer.concat_axis, at.rank))


@writes(Slice)
def slice_(at: Place, layer: Slice) -> list[str]:
    if layer.count == 1:
        return [at.x]
    axis = canonical_axis(layer.slice_axis, at.rank)
    sizes = at.integers("sizes", *(out[axis] for out in at.outs))
    return at.ops("Split", at.x, sizes, outputs=layer.count, axis=axis)


@writes(Split)
def split(at: Place, layer: Split) -> list[str]:
    return [at.x] * layer.count


@writes(Silence)
def silence(at: Place, layer: Silence) -> list[str]:
    return []


@writes(Crop)
def crop(at: Place, layer: Crop) -> str:
    first = canonical_axis(layer.first_axis, at.rank)
    axes = range(first, at.rank)
    offset = layer.offset or (0,)
    starts = offset * len(axes) if len(offset) == 1 else offset
    ends = [start + at.out[axis] for start, axis in zip(starts, axes, strict=True)]
    return at.op(
        "Slice",
        at.x,
        at.integers("starts", *starts),
        at.integers("ends", *ends),
        at.integers("axes", *axes),
    )


@writes(Tile)
def tile(at: Place, layer: Tile) -> str:
    axis = canonical_axis(layer.tile_axis, at.rank)
    repeats = [layer.tiles if i == axis else 1 for i in range(at.rank)]
    return at.op("Tile", at.x, at.integers("repeats", *repeats))


@writes(BatchReindex)
def batch_reindex(at: Place, layer: BatchReindex) -> str:
    return at.op("Gather", at.x, at.whole(at.inputs[1]), axis=0)


@writes(Filter)
def filter_(at: Place, layer: Filter) -> list[str]:
    *given, selector = at.inputs
    chosen = at.op("Cast", at.reshape(selector, -1), to=BOOL)
    return [at.op("Compress", x, chosen, axis=0) for x in given]
