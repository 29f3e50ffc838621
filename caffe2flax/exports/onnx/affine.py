"""Products with a matrix, scales and biases."""

from __future__ import annotations

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.exports.onnx.program import Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.ir.layer import canonical_axis
from caffe2flax.layers.batchnorm import BatchNorm, Scale, statistics
from caffe2flax.layers.bias import Bias
from caffe2flax.layers.dense import Embed, InnerProduct


@writes(InnerProduct)
def inner_product(at: Place, layer: InnerProduct) -> str:
    axis = canonical_axis(layer.first_axis, at.rank)
    x = at.x if at.rank == 2 and axis == 1 else at.op("Flatten", at.x, axis=axis)
    given = [at.weight(0, "weight")] + ([at.weight(1, "bias")] if layer.bias else [])
    y = at.op("Gemm", x, *given, transB=int(not layer.transpose))
    return y if axis == 1 else at.to_top(y)


@writes(Embed)
def embed(at: Place, layer: Embed) -> str:
    top = at.op("Gather", at.weight(0, "weight"), at.whole(at.x), axis=0)
    return at.op("Add", top, at.weight(1, "bias")) if layer.bias else top


@writes(BatchNorm)
def batch_norm(at: Place, layer: BatchNorm) -> str:
    if layer.moving:
        raise ConversionError(
            "it normalizes by the statistics of the batch: for a net to run, "
            "use_global_stats is needed"
        )
    mean, variance = statistics([at.values(i) for i in range(3)])
    eps = layer.eps
    if layer.outside:
        variance, eps = np.square(np.sqrt(variance) + np.float32(eps)), 0.0
    count = len(mean)
    given: list[str] = []
    scale = layer.scale
    given.append(
        at.weight(3, "scale", (count,))
        if scale
        else at.constant("scale", np.ones(count))
    )
    given.append(
        at.weight(4, "bias", (count,))
        if scale and scale.bias
        else at.constant("bias", np.zeros(count))
    )
    statistic = at.constant("mean", mean), at.constant("variance", variance)
    return at.op("BatchNormalization", at.x, *given, *statistic, epsilon=eps)


@writes(Scale)
def scale(at: Place, layer: Scale) -> str:
    if layer.second:
        first, end = layer.axis_range.second(*at.shapes)
        factor = at.along("axes", at.inputs[1], first, end - first)
    else:
        first, end = layer.axis_range.of(at.shape)
        factor = _broadcast(at, 0, "scale", first)
    top = at.op("Mul", at.x, factor)
    if not layer.bias:
        return top
    return at.op("Add", top, _broadcast(at, len(at.blobs) - 1, "bias", first))


@writes(Bias)
def bias(at: Place, layer: Bias) -> str:
    if layer.second:
        first, end = layer.axis_range.second(*at.shapes)
        return at.op("Add", at.x, at.along("axes", at.inputs[1], first, end - first))
    first, _ = layer.axis_range.of(at.shape)
    return at.op("Add", at.x, _broadcast(at, 0, "bias", first))


def _broadcast(at: Place, index: int, name: str, first: int) -> str:
    """A weight blob with the axes of the first bottom from `first` on."""
    shape = at.node.weights[index].shape
    return at.weight(index, name, (*shape, *(1,) * (at.rank - first - len(shape))))
