"""BatchNorm of forks in which it includes a scale and a bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.ir.abilities import Doubtful, FollowsPhase
from caffe2flax.ir.call import DTYPE, RNGS, Call
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Elementwise, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.layers._affine import along, initializer
from caffe2flax.layers._fields import filler

ONES = Filler("constant", value=1.0)
ZEROS = Filler()

BLOBS = {
    "nvcaffe": ("mean", "var", "", "scale", "bias"),
    "intel": ("mean", "var", "factor", "scale", "bias"),
    "xilinx": ("scale", "bias", "mean", "var"),
}
"""The blobs of each fork's layer; "" for a correction that only training uses."""

OF_NVIDIA = ("forward_type", "backward_type", "forward_math", "cudnn_math_override")


def doubt(blobs: Sequence[Array]) -> str:
    """What to say of mean, variance and factor where the factor takes the others
    away."""
    mean, variance, factor = (loaded(blob) for blob in blobs[:3])
    if factor.any() or not (mean.any() or variance.any()):
        return ""
    return (
        "the third blob of BatchNorm is 0 beside a mean and a variance that are not: "
        "Caffe takes both for 0 then; if the file was written by NVCaffe, where this "
        "blob divides nothing, give --dialect BatchNorm=nvcaffe"
    )


def meaning(params: Params) -> str:
    """The fork whose BatchNorm it is: the caller's choice, or decided by the file."""
    chosen = params.dialect("BatchNorm")
    if chosen:
        return chosen
    given = {f.name for f in params.message.fields} if params.message else set()
    own = given & {"scale_bias", "scale_filler", "use_weight_bias", "filler"}
    if own & {"use_weight_bias", "filler"}:
        if "Scale" in params.types:
            return "bvlc"
        why = f"it has the field {min(own)}, and the net holds no Scale"
        return params.decided("BatchNorm", "intel", why)
    rates = list(_rates(params))
    if own or "bias_filler" in given:
        if len(rates) == 4 and rates[0] and rates[1] and not rates[2] and not rates[3]:
            why = "of four param messages the first two are trained"
            return params.decided("BatchNorm", "xilinx", why)
        why = f"it has the field {min(own | {'bias_filler'} & given)}"
        return params.decided("BatchNorm", "nvcaffe", why)
    if len(rates) == 4 and rates[0] and rates[1] and not rates[2] and not rates[3]:
        why = "of four param messages the first two are trained"
        return params.decided("BatchNorm", "xilinx", why)
    line = params.parent.message if params.parent else None
    for name in OF_NVIDIA:
        if line is not None and line.has(name):
            why = f"the layer has the field {name}"
            return params.decided("BatchNorm", "nvcaffe", why)
        if f"default_{name}" in params.declared:
            why = f"the net has the field default_{name}"
            return params.decided("BatchNorm", "nvcaffe", why)
    return "bvlc"


def _rates(params: Params) -> Iterator[bool]:
    """For each param message of the layer, whether training changes its blob."""
    message = params.parent.message if params.parent else None
    for spec in message.all("param") if message else ():
        if isinstance(spec.value, Message):
            rate = next(spec.value.all("lr_mult"), None)
            still = rate and isinstance(rate.value, Scalar) and _is_zero(rate.value)
            yield not still


def _is_zero(value: Scalar) -> bool:
    return not value.text.strip("0.fF+-")


@dataclass(frozen=True, slots=True)
class ScaledBatchNorm(Elementwise, Doubtful, FollowsPhase):
    """(x - mean) / sqrt(variance + eps) * scale + bias, a channel at a time."""

    type = "BatchNorm"

    blob_names: tuple[str, ...]
    eps: float
    momentum: float
    training: bool
    scale_filler: Filler
    bias_filler: Filler

    @classmethod
    def read(cls, params: Params, fork: str) -> Self:
        """The fields of a fork's BatchNormParameter."""
        training = params.phase == "TRAIN"
        eps = params.get("eps", 1e-5)
        if fork == "nvcaffe":
            eps = max(eps, 1e-5)
        moving = params.get("moving_average_fraction", 0.999)
        batch = not params.get("use_global_stats", False) and training
        name = "filler" if fork == "intel" else "scale_filler"
        fills = filler(params, name, 1.0), filler(params, "bias_filler")
        filled = params.has("scale_filler") or params.has("bias_filler")
        scaled = fork != "nvcaffe" or params.get("scale_bias", filled) or filled
        blob_names = BLOBS[fork] if scaled else BLOBS[fork][:3]
        if fork == "intel":
            scaled = params.get("use_weight_bias", True)
            bias = params.get("bias_term", True)
            blob_names = blob_names[: 3 + scaled + (scaled and bias)]
        if batch:
            text = "running statistics are kept as Flax does in training"
            params.note(f"{params.span()}: BatchNorm of {fork}: {text}")
        return cls(blob_names, eps, moving, batch, *fills)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) < 2:
            raise ConversionError(f"BatchNorm needs 2 axes or more, not {inputs[0]}")
        return inputs

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        fillers = {"scale": self.scale_filler, "bias": self.bias_filler, "": ONES}
        sizes = {"": 1, "factor": 1}
        return tuple(
            Blob((sizes.get(name, inputs[0][1]),), fillers.get(name, ZEROS))
            for name in self.blob_names
        )

    def names(self) -> tuple[str, ...]:
        return tuple("" if name == "factor" else name for name in self.blob_names)

    def serving(self, other: Layer) -> Layer:
        both = isinstance(other, ScaledBatchNorm) and other.training
        return replace(self, training=self.training or both)

    def build(self, at: Site) -> Call:
        channels = at.input.shape[1]
        scale = initializer(at.initialise, self.scale_filler, (channels,), ONES)
        bias = initializer(at.initialise, self.bias_filler, (channels,), ZEROS)
        return Call.of(
            "nnx.BatchNorm",
            channels,
            axis=at.axis(1),
            momentum=self.momentum,
            epsilon=self.eps,
            use_bias="bias" in self.blob_names,
            use_scale="scale" in self.blob_names,
            scale_init=scale if "scale" in self.blob_names else None,
            bias_init=bias if "bias" in self.blob_names else None,
            use_fast_variance=not self.training,
            dtype=DTYPE,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        named = self._named([np.asarray(blob, np.float32) for blob in blobs])
        return {name: at.input.arrange_blob(blob, 1) for name, blob in named.items()}

    def _named(self, blobs: Sequence[Array]) -> dict[str, Array]:
        named = dict(zip(self.blob_names, blobs, strict=True))
        named.pop("", None)
        if "factor" in named:
            factor = named.pop("factor").reshape(-1)[:1]
            share = np.divide(1, factor, np.zeros_like(factor), where=factor != 0)
            named |= {name: named[name] * share for name in ("mean", "var")}
        return {name: blob.reshape(-1) for name, blob in named.items()}

    def doubt(self, blobs: Sequence[Array]) -> str:
        return doubt(blobs) if "factor" in self.blob_names and not self.training else ""

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        named = {n: along(b, x, 1) for n, b in self._named(blobs).items()}
        mean, variance = named["mean"], named["var"]
        if self.training:
            others = tuple(axis for axis in range(x.ndim) if axis != 1)
            mean, variance = x.mean(others, keepdims=True), x.var(others, keepdims=True)
        top: Array = (x - mean) / np.sqrt(variance + self.eps)
        return top * named.get("scale", 1) + named.get("bias", 0)
