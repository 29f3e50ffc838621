"""Functions of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Probabilities
from caffe2flax.ir.call import RNGS, Call, arguments, literal, unless
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Elementwise, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import AxisRange, along, arranged, initializer
from caffe2flax.layers._fields import filler


@layer("ReLU", "relu_param")
@dataclass(frozen=True, slots=True)
class ReLU(Elementwise):
    """max(x, 0) + negative_slope * min(x, 0)."""

    negative_slope: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("negative_slope", 0.0))

    def call(self, at: Site) -> str:
        if not self.negative_slope:
            return f"nnx.relu({at.x})"
        return f"leaky_relu({at.x}, {literal(self.negative_slope)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return np.maximum(x, 0) + self.negative_slope * np.minimum(x, 0)


@layer("PReLU", "prelu_param")
@dataclass(frozen=True, slots=True)
class PReLU(Elementwise):
    """max(x, 0) + slope * min(x, 0), a learned slope a channel or one for all."""

    shared: bool = False
    filler: Filler = Filler("constant", value=0.25)

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(
            params.get("channel_shared", False), filler(params, "filler", value=0.25)
        )

    @property
    def _axes(self) -> AxisRange:
        return AxisRange(1, 0 if self.shared else 1)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) < 2:
            raise ConversionError(f"PReLU needs 2 axes or more, not {inputs[0]}")
        return inputs

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        return (Blob(self._axes.shape(inputs[0]), self.filler),)

    def names(self) -> tuple[str, ...]:
        return ("negative_slope",)

    def build(self, at: Site) -> Call:
        shape, lacking = arranged(at.input, *self._axes.of(at.input.shape))
        (blob,) = self.blobs(at.input.shape)
        usual = Filler("constant", value=0.25)
        init = initializer(at.initialise, self.filler, blob.shape, usual)
        where = (shape, lacking) if lacking else (shape,)
        return Call.of("PReLU", *where, slope_init=init, rngs=RNGS)

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        return {"negative_slope": at.input.arrange_blob(blobs[0], 1)}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        slope = blobs[0] if self.shared else along(blobs[0], x, 1)
        top: Array = np.maximum(x, 0) + slope * np.minimum(x, 0)
        return top


@layer("ELU", "elu_param")
@dataclass(frozen=True, slots=True)
class ELU(Elementwise):
    """max(x, 0) + alpha * (exp(min(x, 0)) - 1)."""

    alpha: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("alpha", 1.0))

    def call(self, at: Site) -> str:
        return f"nnx.elu({arguments(at.x, alpha=unless(self.alpha, 1.0))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return np.maximum(x, 0) + self.alpha * np.expm1(np.minimum(x, 0))


@layer("Sigmoid", "sigmoid_param")
@dataclass(frozen=True, slots=True)
class Sigmoid(Elementwise, Probabilities):
    """1 / (1 + exp(-x))."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls()

    def call(self, at: Site) -> str:
        return f"nnx.sigmoid({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return _sigmoid(inputs[0])


@layer("TanH", "tanh_param")
@dataclass(frozen=True, slots=True)
class TanH(Elementwise):
    """tanh(x)."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls()

    def call(self, at: Site) -> str:
        return f"jnp.tanh({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.tanh(inputs[0])


@layer("AbsVal")
@dataclass(frozen=True, slots=True)
class AbsVal(Elementwise):
    """|x|."""

    in_place = False

    def call(self, at: Site) -> str:
        return f"absolute({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.abs(inputs[0])


@layer("BNLL")
@dataclass(frozen=True, slots=True)
class BNLL(Elementwise):
    """log(1 + exp(x))."""

    def call(self, at: Site) -> str:
        return f"nnx.softplus({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.logaddexp(inputs[0], 0)


@layer("Swish", "swish_param")
@dataclass(frozen=True, slots=True)
class Swish(Elementwise):
    """x / (1 + exp(-beta * x))."""

    beta: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("beta", 1.0))

    def call(self, at: Site) -> str:
        if self.beta == 1:
            return f"nnx.swish({at.x})"
        return f"scaled_swish({at.x}, {literal(self.beta)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return x * _sigmoid(self.beta * x)


@layer("Clip", "clip_param")
@dataclass(frozen=True, slots=True)
class Clip(Elementwise):
    """max(min(x, max), min)."""

    min: float
    max: float

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.require("min", float), params.require("max", float))

    def call(self, at: Site) -> str:
        return f"clip({at.x}, {literal(self.min)}, {literal(self.max)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.maximum(np.minimum(inputs[0], self.max), self.min)


@layer("Threshold", "threshold_param")
@dataclass(frozen=True, slots=True)
class Threshold(Elementwise):
    """1 where x > threshold, else 0."""

    threshold: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("threshold", 0.0))

    def call(self, at: Site) -> str:
        return f"exceeds({at.x}, {literal(self.threshold)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        # Caffe compares with the field as a float32.
        return (inputs[0] > np.float32(self.threshold)).astype(np.float64)


def _sigmoid(x: Array) -> Array:
    # tanh does not overflow; its error is far below 1e-5.
    half: Array = 0.5 * np.tanh(0.5 * x) + 0.5
    return half
