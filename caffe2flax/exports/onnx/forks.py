"""Layers outside of Caffe 1.0: functions of elements, scales, and rearrangements."""

from __future__ import annotations

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.exports.onnx.activation import scaled, shifted
from caffe2flax.exports.onnx.affine import channels
from caffe2flax.exports.onnx.program import Array, Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.ir.layer import canonical_axis
from caffe2flax.layers._fork_batchnorm import ScaledBatchNorm
from caffe2flax.layers.forks._priors import Priors, SizedPriors
from caffe2flax.layers.forks.activation import (
    Atan,
    HardSigmoid,
    HardSwish,
    Insanity,
    ReLU6,
    RReLU,
    SeLU,
    SeLUDropout,
)
from caffe2flax.layers.forks.affine import Axpy, ChannelScale, EltwiseAffine
from caffe2flax.layers.forks.axes import Transpose
from caffe2flax.layers.forks.bn import Running
from caffe2flax.layers.forks.functions import (
    Ceil,
    Floor,
    HardTanH,
    LogSoftmax,
    ScaledTanH,
    Softsign,
    Truncation,
)
from caffe2flax.layers.forks.interp import Interp
from caffe2flax.layers.forks.normalize import Normalize
from caffe2flax.layers.forks.pad import MirrorPad, Pad
from caffe2flax.layers.forks.permute import Permute
from caffe2flax.layers.forks.prior_box import FacePriors, PriorBox
from caffe2flax.layers.forks.prior_box_clustered import PriorBoxClustered
from caffe2flax.layers.forks.rearrange import (
    DepthToSpace,
    PixelShuffle,
    ShuffleChannel,
    SpaceToDepth,
)
from caffe2flax.layers.forks.resize import UpsampleDarknet
from caffe2flax.layers.forks.squeeze import ExpandDimsND, Squeeze, Unsqueeze

BATCH = "it normalizes by the statistics of the batch"


@writes(ReLU6)
def relu6(at: Place, layer: ReLU6) -> str:
    x = at.op("LeakyRelu", at.x, alpha=layer.negative_slope)
    return at.op("Min", x, at.constant("threshold", layer.threshold))


@writes(HardSigmoid)
def hard_sigmoid(at: Place, layer: HardSigmoid) -> str:
    ramp = shifted(at, scaled(at, at.x, layer.alpha, "alpha"), layer.beta, "beta")
    return _clipped(at, ramp, 0.0, 1.0)


@writes(HardSwish)
def hard_swish(at: Place, layer: HardSwish) -> str:
    gate = _clipped(at, shifted(at, at.x, 3.0), 0.0, 6.0)
    return scaled(at, at.op("Mul", at.x, gate), 1 / 6)


@writes(RReLU, Insanity)
def rrelu(at: Place, layer: RReLU) -> str:
    return at.op("LeakyRelu", at.x, alpha=layer.slope)


@writes(SeLU)
def selu(at: Place, layer: SeLU) -> str:
    return at.op("Selu", at.x, alpha=layer.alpha, gamma=layer.factor)


@writes(SeLUDropout)
def passed(at: Place, layer: SeLUDropout) -> str:
    return at.x


@writes(Atan, Ceil, Floor, Softsign)
def function(at: Place, layer: Atan | Ceil | Floor | Softsign) -> str:
    return at.op(type(layer).__name__, at.x)


@writes(HardTanH)
def hard_tanh(at: Place, layer: HardTanH) -> str:
    return _clipped(at, at.x, -1.0, 1.0)


@writes(Truncation)
def truncation(at: Place, layer: Truncation) -> str:
    return _clipped(at, at.x, layer.low, layer.high)


def _clipped(at: Place, x: str, low: float, high: float) -> str:
    """min(max(x, low), high)."""
    top = at.op("Max", x, at.constant("low", low))
    return at.op("Min", top, at.constant("high", high))


@writes(ScaledTanH)
def scaled_tanh(at: Place, layer: ScaledTanH) -> str:
    inner = _clipped(at, scaled(at, at.x, layer.beta, "beta"), -20.0, 20.0)
    return scaled(at, at.op("Tanh", inner), layer.alpha, "alpha")


@writes(LogSoftmax)
def log_softmax(at: Place, layer: LogSoftmax) -> str:
    axis = canonical_axis(layer.softmax_axis, at.rank)
    return at.op("LogSoftmax", at.x, axis=axis)


@writes(Axpy)
def axpy(at: Place, layer: Axpy) -> str:
    factor, x, y = at.inputs
    return at.op("Add", at.op("Mul", at.along("axes", factor, 0, at.rank), x), y)


@writes(ChannelScale)
def channel_scale(at: Place, layer: ChannelScale) -> str:
    return at.op("Mul", *at.inputs)


@writes(EltwiseAffine)
def eltwise_affine(at: Place, layer: EltwiseAffine) -> str:
    shape = () if layer.shared else (-1, *(1,) * (at.rank - 2))
    top = at.op("Mul", at.x, at.weight(0, "slope", shape))
    return at.op("Add", top, at.weight(1, "bias", shape))


@writes(ScaledBatchNorm)
def scaled_batch_norm(at: Place, layer: ScaledBatchNorm) -> str:
    if layer.training:
        raise ConversionError(BATCH)
    named = {name: at.values(i) for i, name in enumerate(layer.blob_names)}
    if "factor" in named:
        factor = named["factor"].reshape(-1)[0]
        share = np.float32(0) if factor == 0 else np.float32(1) / factor
        named |= {name: named[name] * share for name in ("mean", "var")}
    return _normalized(at, named, layer.eps)


@writes(Running)
def running(at: Place, layer: Running) -> str:
    if layer.training and not layer.frozen:
        raise ConversionError(BATCH)
    named = dict(zip(layer.names(), map(at.values, range(4)), strict=True))
    return _normalized(at, named, layer.eps)


def _normalized(at: Place, named: dict[str, Array], eps: float) -> str:
    count = at.shape[1]
    usual = {"scale": np.ones(count), "bias": np.zeros(count)}
    given = [
        at.constant(name, (usual | named)[name].reshape(-1))
        for name in ("scale", "bias", "mean", "var")
    ]
    return at.op("BatchNormalization", at.x, *given, epsilon=eps)


@writes(Normalize)
def normalize(at: Place, layer: Normalize) -> str:
    x = at.x if len(at.out) == at.rank else at.to_top(at.x)
    axes = [*range(1, len(at.out))] if layer.across_spatial else [1]
    where = at.integers("axes", *axes)
    if layer.norm == "L1":
        total = at.op("ReduceSum", at.op("Abs", x), where, keepdims=1)
        return at.op("Div", x, shifted(at, total, layer.eps, "eps"))
    total = at.op("ReduceSum", at.op("Mul", x, x), where, keepdims=1)
    top = at.op("Div", x, at.op("Sqrt", shifted(at, total, layer.eps, "eps")))
    if not layer.scaled:
        return top
    scale = at.values(0)
    if layer.channel_shared:
        return at.op("Mul", top, at.constant("scale", scale.reshape(())))
    return at.op("Mul", top, at.constant("scale", channels(scale, at.rank)))


@writes(PriorBox, FacePriors, SizedPriors, PriorBoxClustered)
def prior_box(at: Place, layer: Priors) -> str:
    """A constant, as it depends on the shapes of its bottoms only."""
    at.check_room(*at.out)
    nothing = [np.broadcast_to(np.float64(0), shape) for shape in at.shapes]
    return at.constant("boxes", layer.reference((), *nothing))


@writes(Permute)
def permute(at: Place, layer: Permute) -> str:
    rest = [axis for axis in range(at.rank) if axis not in layer.order]
    return at.op("Transpose", at.x, perm=[*layer.order, *rest])


@writes(Transpose)
def transpose(at: Place, layer: Transpose) -> str:
    return at.op("Transpose", at.x, perm=[*layer.dim])


@writes(Squeeze, Unsqueeze, ExpandDimsND)
def reshaped(at: Place, layer: Squeeze | Unsqueeze | ExpandDimsND) -> str:
    return at.to_top(at.x)


@writes(ShuffleChannel)
def shuffle_channel(at: Place, layer: ShuffleChannel) -> str:
    count = at.shape[1]
    order = np.arange(count).reshape(layer.group, -1).T.ravel()
    return at.op("Gather", at.x, at.constant("channels", order, np.int64), axis=1)


@writes(DepthToSpace, PixelShuffle)
def depth_to_space(at: Place, layer: DepthToSpace) -> str:
    x = at.x if layer.order != "NHWC" else at.op("Transpose", at.x, perm=[0, 3, 1, 2])
    mode = "CRD" if layer.order == "CRD" else "DCR"
    top = at.op("DepthToSpace", x, blocksize=layer.block, mode=mode)
    return top if layer.order != "NHWC" else at.op("Transpose", top, perm=[0, 2, 3, 1])


@writes(SpaceToDepth)
def space_to_depth(at: Place, layer: SpaceToDepth) -> str:
    x = at.x if layer.order != "NHWC" else at.op("Transpose", at.x, perm=[0, 3, 1, 2])
    top = at.op("SpaceToDepth", x, blocksize=layer.block)
    return top if layer.order != "NHWC" else at.op("Transpose", top, perm=[0, 2, 3, 1])


@writes(Pad, MirrorPad)
def pad(at: Place, layer: Pad) -> str:
    ends = ((0, 0), (0, 0), *layer.ends) if layer.images else layer.ends
    if layer.mode == "symmetric":
        raise ConversionError("a border that repeats the outermost entries mirrored")
    low, high = zip(*ends, strict=True)
    pads = at.integers("pads", *low, *high)
    given = [at.constant("value", layer.value)] if layer.mode == "constant" else []
    return at.op("Pad", at.x, pads, *given, mode=layer.mode)


@writes(UpsampleDarknet)
def repeat(at: Place, layer: UpsampleDarknet) -> str:
    """Each pixel as a block: a tile of an axis of extent 1 beside it."""
    _, c, height, width = at.shape
    x = at.reshape(at.x, -1, c, height, 1, width, 1)
    times = at.integers("repeats", 1, 1, 1, layer.stride, 1, layer.stride)
    return at.to_top(at.op("Tile", x, times))


@writes(Interp)
def interp(at: Place, layer: Interp) -> str:
    """Products with a matrix for the rows and one for the columns."""
    x = at.x
    if layer.begin or layer.end:
        starts = at.integers("starts", -layer.begin, -layer.begin)
        ends = at.integers("ends", *(n + layer.end for n in at.shape[2:]))
        x = at.op("Slice", x, starts, ends, at.integers("axes", 2, 3))
    cropped = [n + layer.begin + layer.end for n in at.shape[2:]]
    rows, columns = (
        at.constant(name, _linear(at, n, m))
        for name, n, m in zip(("rows", "columns"), cropped, at.out[2:], strict=True)
    )
    columns = at.op("Transpose", columns, perm=[1, 0])
    return at.op("MatMul", at.op("MatMul", rows, x), columns)


def _linear(at: Place, size: int, wanted: int) -> Array:
    """The (wanted, size) matrix that interpolates with aligned corners."""
    at.check_room(wanted, size)
    place = np.arange(wanted) * ((size - 1) / max(wanted - 1, 1))
    low = np.minimum(place.astype(int), size - 1)
    high, part = np.minimum(low + 1, size - 1), place - low
    matrix = np.zeros((wanted, size))
    np.add.at(matrix, (np.arange(wanted), low), 1 - part)
    np.add.at(matrix, (np.arange(wanted), high), part)
    return matrix
