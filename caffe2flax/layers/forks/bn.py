"""The layer type BN, which has three meanings in Caffe's forks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import FollowsPhase
from caffe2flax.ir.call import DTYPE, RNGS, Call, arguments, unless
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Elementwise, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import along, arranged, initializer
from caffe2flax.layers._fields import filler

PSPNET = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine")
PARSENET = ("var_eps", "moving_average", "decay", "across_spatial")
SEGNET = ("bn_mode", "scale_filler", "shift_filler")


def meaning(params: Params) -> str:
    """The fork whose BN it is: the caller's choice, or decided by its fields; "" where
    they do not decide."""
    icnet = params.optional("icnet", bool)
    chosen = params.dialect("BN")
    if chosen:
        return chosen
    if icnet is not None:  # Synopsys' fork has both layers
        name, said = ("pspnet", "true") if icnet else ("segnet", "false")
        return params.decided("BN", name, f"icnet is {said}")
    given = {f.name for f in params.message.fields} if params.message else set()
    for name, fields in (
        ("pspnet", PSPNET),
        ("parsenet", PARSENET),
        ("segnet", SEGNET),
    ):
        evidence = [field for field in fields if field in given]
        if evidence:
            return params.decided("BN", name, f"it has the field {evidence[0]}")
    message = params.parent.message if params.parent else None
    if message is not None and sum(1 for _ in message.all("param")) == 4:
        return params.decided("BN", "pspnet", "it has param four times")
    params.undecided("BN")
    return ""


class Normalizing(Elementwise):
    """A scale and a bias for each channel, in blobs (1, C, 1, 1)."""

    __slots__ = ()

    type = "BN"
    ranks = (4, 4)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        low, high = self.ranks
        if not low <= len(inputs[0]) <= high:
            raise ConversionError(f"BN needs a blob of 4 axes, not {inputs[0]}")
        return inputs

    def names(self) -> tuple[str, ...]:
        return ("scale", "bias")

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        return {
            name: at.input.arrange_blob(blob.reshape(-1), 1)
            for name, blob in zip(self.names(), blobs, strict=True)
        }


@layer("BN", "bn_param")
class BN(Normalizing):
    """Normalization of each channel, as in one of three forks."""

    __slots__ = ()

    @classmethod
    def parse(cls, params: Params) -> Layer:
        fork = meaning(params)
        if fork == "pspnet":
            return Running.read(params)
        return TwoBlobs.read(params, fork or "segnet")

    def call(self, at: Site) -> str:
        raise AssertionError("`parse` makes one of the meanings")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("`parse` makes one of the meanings")


@dataclass(frozen=True, slots=True)
class TwoBlobs(Normalizing):
    """x * scale + shift, with x first normalized by the statistics of the batch unless
    `bn_mode` is INFERENCE."""

    eps: float | None
    """None: no statistics."""
    scale_filler: Filler
    shift_filler: Filler

    @classmethod
    def read(cls, params: Params, fork: str) -> Self:
        """SegNet's fields, or ParseNet's."""
        scale, shift = filler(params, "scale_filler"), filler(params, "shift_filler")
        if fork == "segnet":
            learns = params.choice("bn_mode", "LEARN", "INFERENCE") == "LEARN"
            return cls(1e-9 if learns else None, scale, shift)
        params.ignore("decay")
        if params.get("moving_average", False) and params.phase == "TEST":
            text = "moving_average: the averages are not in weights files"
            params.unsupported("moving_average", text)
        if not params.get("across_spatial", True):
            params.unsupported(
                "across_spatial", "statistics of each pixel are not converted"
            )
        return cls(params.get("var_eps", 1e-10), scale, shift)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        shape = (1, inputs[0][1], 1, 1)
        return Blob(shape, self.scale_filler), Blob(shape, self.shift_filler)

    def build(self, at: Site) -> Call:
        shape, lacking = arranged(at.input, 1, 2)
        usual = Filler("constant", value=1.0), Filler()
        fillers = self.scale_filler, self.shift_filler
        names = "scale_init", "bias_init"
        inits = {
            name: initializer(at.initialise, given, shape, default)
            for name, given, default in zip(names, fillers, usual, strict=True)
        }
        function = "Scale" if self.eps is None else "BatchScale"
        return Call.of(function, shape, lacking, **inits, rngs=RNGS)

    def call(self, at: Site) -> str:
        eps = None if self.eps is None else unless(self.eps, 1e-9)
        return f"{at.module}({arguments(at.x, epsilon=eps)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        if self.eps is not None:
            mean = x.mean((0, 2, 3), keepdims=True)
            x = (x - mean) / (x.var((0, 2, 3), keepdims=True) + self.eps) ** 0.5
        scale, shift = blobs
        top: Array = x * scale + shift
        return top


@dataclass(frozen=True, slots=True)
class Running(Normalizing, FollowsPhase):
    """(x - mean) / sqrt(variance + eps) * slope + bias; mean and variance are blobs in
    TEST or with `frozen`, otherwise those of the batch."""

    ranks = (2, 4)

    eps: float
    momentum: float
    frozen: bool
    training: bool
    slope_filler: Filler
    bias_filler: Filler

    @classmethod
    def read(cls, params: Params) -> Self:
        """PSPNet's fields."""
        params.ignore("engine")
        return cls(
            params.get("eps", 1e-5),
            params.get("momentum", 0.9),
            params.get("frozen", False),
            params.phase == "TRAIN",
            filler(params, "slope_filler"),
            filler(params, "bias_filler"),
        )

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        shape = (1, inputs[0][1], 1, 1)
        variance = Filler("constant", value=1.0 if self.frozen else 0.0)
        fillers = self.slope_filler, self.bias_filler, Filler(), variance
        return tuple(Blob(shape, each) for each in fillers)

    def names(self) -> tuple[str, ...]:
        return ("scale", "bias", "mean", "var")

    def serving(self, other: Layer) -> Layer:
        both = isinstance(other, Running) and other.training
        return replace(self, training=self.training or both)

    def build(self, at: Site) -> Call:
        channels = at.input.shape[1]
        usual = Filler("constant", value=1.0), Filler()
        scale, bias = (
            initializer(at.initialise, given, (channels,), default)
            for given, default in zip(
                (self.slope_filler, self.bias_filler), usual, strict=True
            )
        )
        return Call.of(
            "nnx.BatchNorm",
            channels,
            axis=at.axis(1),
            momentum=self.momentum,
            epsilon=self.eps,
            scale_init=scale,
            bias_init=bias,
            use_fast_variance=not self.training,
            dtype=DTYPE,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        if self.frozen and self.training:
            return f"{at.module}({at.x}, use_running_average=True)"
        return f"{at.module}({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        slope, bias, mean, variance = (along(blob.reshape(-1), x, 1) for blob in blobs)
        if self.training and not self.frozen:
            others = tuple(axis for axis in range(x.ndim) if axis != 1)
            mean, variance = x.mean(others, keepdims=True), x.var(others, keepdims=True)
        top: Array = (x - mean) / (variance + self.eps) ** 0.5 * slope + bias
        return top
