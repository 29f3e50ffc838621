"""Layers that keep the values, and those that make some without a bottom."""

from __future__ import annotations

from caffe2flax.errors import ConversionError
from caffe2flax.exports.onnx.program import Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.layers.dropout import Dropout
from caffe2flax.layers.generated import DummyData, Parameter
from caffe2flax.layers.shape import Flatten, Reshape


@writes(Flatten)
def flatten(at: Place, layer: Flatten) -> str:
    if layer.axis == 1 and layer.end_axis in (-1, at.rank - 1) and at.rank > 1:
        return at.op("Flatten", at.x, axis=1)
    return at.to_top(at.x)


@writes(Reshape)
def reshape(at: Place, layer: Reshape) -> str:
    return at.to_top(at.x)


@writes(Dropout)
def dropout(at: Place, layer: Dropout) -> str:
    if layer.always or at.training:
        if layer.ratio > 0:
            raise ConversionError("it draws random numbers")
        return at.x
    if layer.scale_train:
        return at.x
    return at.op("Mul", at.x, at.constant("kept", 1 - layer.ratio))


@writes(DummyData)
def dummy_data(at: Place, layer: DummyData) -> list[str]:
    if layer.takes_rngs:
        raise ConversionError("it draws random numbers")
    tops = []
    for filler, shape in zip(layer.fillers, layer.shapes, strict=True):
        dims = at.integers("shape", *shape)
        value = at.constant("value", filler.value)
        tops.append(at.op("Expand", value, dims))
    return tops


@writes(Parameter)
def parameter(at: Place, layer: Parameter) -> str:
    return at.weight(0, "value")
