"""Functions of single elements that forks of Caffe added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, prod
from typing import ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Elementwise, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer, variant
from caffe2flax.layers._sides import QUANTISED, refuse_quantised


@layer("ReLU6", "relu6_param", "relu_param")
@dataclass(frozen=True, slots=True)
class ReLU6(Elementwise):
    """min(max(x, 0) + negative_slope * min(x, 0), threshold)."""

    negative_slope: float = 0.0
    threshold: float = 6.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("negative_slope", 0.0), params.get("threshold", 6.0))

    def call(self, at: Site) -> str:
        if self == ReLU6():
            return f"nnx.relu6({at.x})"
        slope, threshold = literal(self.negative_slope), literal(self.threshold)
        return f"capped_relu({at.x}, {slope}, {threshold})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        ramp = np.maximum(x, 0) + self.negative_slope * np.minimum(x, 0)
        top: Array = np.minimum(ramp, self.threshold)
        return top


LIMITS = ("relu6", "maximum", "minimum", "saturate", *QUANTISED)
"""Fields of relu_param that only Synopsys' fork has."""


@variant("ReLU", lambda params: params.bottoms == 2 or any(map(params.has, LIMITS)))
@dataclass(frozen=True, slots=True)
class LimitedReLU(Elementwise):
    """max(x, 0) + negative_slope * min(x, 0), not above 6 with relu6, nor above
    `maximum`, nor below `minimum`; a second bottom replaces `maximum`."""

    bottoms = (1, 2)

    negative_slope: float = 0.0
    six: bool = False
    maximum: float = 0.0
    """No limit where it is 0 or less."""
    minimum: float = 0.0
    """No limit where it is 0."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        refuse_quantised(params)
        maximum = params.get("maximum", 0.0)
        if params.bottoms == 2 and maximum:
            text = f"{params.span('maximum')}: the second bottom replaces maximum"
            params.note(text)
        return cls(
            params.get("negative_slope", 0.0),
            params.get("relu6", False),
            maximum if params.bottoms == 1 else 0.0,
            params.get("minimum", 0.0),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if not all(map(prod, inputs[1:])):
            raise ConversionError("the second bottom is empty: it has no first number")
        return inputs[:1]

    def layouts(self, *inputs: Operand) -> Layouts:
        limits = (Layout.caffe(len(x.shape)) for x in inputs[1:])
        return Layouts((inputs[0].layout, *limits), (inputs[0].layout,))

    def call(self, at: Site) -> str:
        y = f"nnx.relu({at.x})"
        if self.negative_slope:
            y = f"leaky_relu({at.x}, {literal(self.negative_slope)})"
        elif self.six:
            y = f"nnx.relu6({at.x})"
        if self.six and self.negative_slope:
            y = f"jnp.minimum({y}, 6)"
        if self.maximum > 0:
            y = f"jnp.minimum({y}, {literal(self.maximum)})"
        if len(at.args) == 2:
            y = f"at_most({y}, {at.args[1]})"
        return f"jnp.maximum({y}, {literal(self.minimum)})" if self.minimum else y

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x = inputs[0]
        top: Array = np.maximum(x, 0) + self.negative_slope * np.minimum(x, 0)
        most = self.maximum if len(inputs) == 1 else float(inputs[1].flat[0])
        limits = [6.0] * self.six + [most] * (most > 0)
        top = np.minimum(top, min(limits, default=np.inf))
        return np.maximum(top, self.minimum) if self.minimum else top


@layer("HardSigmoid", "hardsigmoid_param", "hard_sigmoid_param")
@dataclass(frozen=True, slots=True)
class HardSigmoid(Elementwise):
    """max(0, min(1, alpha * x + beta))."""

    alpha: float = 0.2
    beta: float = 0.5

    @classmethod
    def parse(cls, params: Params) -> Self:
        # hardsigmoid_param in one fork, hard_sigmoid_param in another.
        other = params.parent.sub("hard_sigmoid_param") if params.parent else params
        given = other if other.message else params
        if params.message and other.message:
            params.error(None, "give hardsigmoid_param or hard_sigmoid_param, not both")
        return cls(given.get("alpha", 0.2), given.get("beta", 0.5))

    def call(self, at: Site) -> str:
        alpha, beta = literal(self.alpha), literal(self.beta)
        return f"hard_sigmoid({arguments(at.x, alpha, beta)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = np.clip(self.alpha * inputs[0] + self.beta, 0, 1)
        return top


@layer("HardSwish")
@dataclass(frozen=True, slots=True)
class HardSwish(Elementwise):
    """x * min(max(x + 3, 0), 6) / 6."""

    def call(self, at: Site) -> str:
        return f"nnx.hard_swish({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        top: Array = x * np.clip(x + 3, 0, 6) / 6
        return top


@layer("Mish")
@dataclass(frozen=True, slots=True)
class Mish(Elementwise):
    """x * tanh(log(1 + exp(x)))."""

    def call(self, at: Site) -> str:
        return f"jax.nn.mish({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return x * np.tanh(np.logaddexp(x, 0))


@layer("Atan")
@dataclass(frozen=True, slots=True)
class Atan(Elementwise):
    """arctan(x)."""

    def call(self, at: Site) -> str:
        return f"jnp.arctan({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.arctan(inputs[0])


@layer("SeLU", "selu_param")
@layer("SeLu", "selu_param")
@dataclass(frozen=True, slots=True)
class SeLU(Elementwise):
    """lambda * (x where positive, else alpha * (exp(x) - 1))."""

    alpha: float = 1.67326324
    factor: float = 1.050700987

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("alpha", 1.67326324), params.get("lambda", 1.050700987))

    def call(self, at: Site) -> str:
        return f"scaled_elu({at.x}, {literal(self.alpha)}, {literal(self.factor)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        low = self.alpha * np.expm1(np.minimum(x, 0))
        return self.factor * np.where(x > 0, x, low)


@layer("SeLUDropout", "selu_dropout_param")
@layer("SeLuDropout", "selu_dropout_param")
@layer("SpatialDropout", "spatial_dropout_param")
@layer("Noise", "noise_param")
@dataclass(frozen=True, slots=True)
class SeLUDropout(Elementwise):
    """Its bottom: in TEST nothing is dropped or added."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("dropout_ratio", "alpha", "gaussian_std", "uniform_range", "bias")
        if params.phase == "TRAIN":
            what = params.parent.get("type", "") if params.parent else cls.type
            params.unsupported(None, f"{what} is converted for TEST only")
        return cls()

    def call(self, at: Site) -> str:
        return at.x

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return inputs[0]


@layer("RReLU", "rrelu_param")
@dataclass(frozen=True, slots=True)
class RReLU(Elementwise):
    """x where positive, else x / slope; at test slope is the logarithmic mean of lb and
    ub."""

    bounds: ClassVar[tuple[float, float]] = (3.0, 8.0)
    """The default of `slope`."""

    low: float = 3.0
    high: float = 8.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        low, high = params.get("lb", cls.bounds[0]), params.get("ub", cls.bounds[1])
        if not 0 < low < high:
            params.unsupported(
                None, f"lb must be positive and below ub, not {low} and {high}"
            )
            low, high = cls.bounds
        if params.phase == "TRAIN":
            text = f"{cls.type} is random in training: it is converted for TEST"
            params.error(None, text)
        return cls(low, high)

    @property
    def slope(self) -> float:
        return log(self.high / self.low) / (self.high - self.low)

    def call(self, at: Site) -> str:
        return f"leaky_relu({at.x}, {literal(self.slope)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return np.where(x > 0, x, self.slope * x)


@layer("Insanity", "insanity_param")
class Insanity(RReLU):
    """x where positive, else x / slope; at test slope is the logarithmic mean of lb and
    ub."""

    __slots__ = ()

    type = "Insanity"
    bounds = (5.0, 10.0)
