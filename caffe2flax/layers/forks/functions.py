"""More functions of single elements that forks of Caffe added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Elementwise, Site, canonical_axis
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


class Function(Elementwise):
    """A function without parameters."""

    __slots__ = ()

    emitted: ClassVar[str]
    """The function in generated code."""
    function: ClassVar[Any]
    """The same in numpy."""

    def call(self, at: Site) -> str:
        return f"{self.emitted}({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = self.function(inputs[0])
        return top


@layer("Ceil")
class Ceil(Function):
    """x rounded up."""

    __slots__ = ()

    emitted = "jnp.ceil"
    function = staticmethod(np.ceil)


@layer("Floor")
class Floor(Function):
    """x rounded down."""

    __slots__ = ()

    emitted = "jnp.floor"
    function = staticmethod(np.floor)


@layer("Round")
class Round(Function):
    """x rounded, halves to the even neighbour."""

    __slots__ = ()

    emitted = "jnp.round"
    function = staticmethod(np.rint)


@layer("Sin")
class Sin(Function):
    """sin(x)."""

    __slots__ = ()

    emitted = "jnp.sin"
    function = staticmethod(np.sin)


@layer("Cosine")
class Cosine(Function):
    """cos(x)."""

    __slots__ = ()

    emitted = "jnp.cos"
    function = staticmethod(np.cos)


@layer("Arccos")
class Arccos(Function):
    """arccos(x)."""

    __slots__ = ()

    emitted = "jnp.arccos"
    function = staticmethod(np.arccos)


@layer("Softplus")
class Softplus(Function):
    """log(1 + exp(x))."""

    __slots__ = ()

    emitted = "jax.nn.softplus"
    function = staticmethod(lambda x: np.logaddexp(x, 0))


@layer("Softsign")
class Softsign(Function):
    """x / (1 + |x|)."""

    __slots__ = ()

    emitted = "jax.nn.soft_sign"
    function = staticmethod(lambda x: x / (1 + np.abs(x)))


@layer("HardTanH")
class HardTanH(Function):
    """min(max(x, -1), 1)."""

    __slots__ = ()

    emitted = "jax.nn.hard_tanh"
    function = staticmethod(lambda x: np.clip(x, -1, 1))


@layer("ScaledTanH", "scaled_tanh_param")
@dataclass(frozen=True, slots=True)
class ScaledTanH(Elementwise):
    """alpha * tanh(beta * x)."""

    alpha: float
    beta: float

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.require("alpha", float), params.require("beta", float))

    def call(self, at: Site) -> str:
        alpha, beta = literal(self.alpha), literal(self.beta)
        return f"{alpha} * jnp.tanh({beta} * {at.operands[0]})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return self.alpha * np.tanh(self.beta * inputs[0])


@layer("ThresholdedReLU", "thresholded_relu_param")
@dataclass(frozen=True, slots=True)
class ThresholdedReLU(Elementwise):
    """x where it exceeds alpha, else 0."""

    alpha: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("alpha", 1.0))

    def call(self, at: Site) -> str:
        return f"thresholded_relu({at.x}, {literal(self.alpha)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.where(inputs[0] > self.alpha, inputs[0], 0)


@layer("NegReLU", "relu_param")
@dataclass(frozen=True, slots=True)
class NegReLU(Elementwise):
    """min(x, 0) + negative_slope * max(x, 0)."""

    slope: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("negative_slope", 0.0))

    def call(self, at: Site) -> str:
        if not self.slope:
            return f"jnp.minimum({at.x}, 0)"
        return f"negative_relu({at.x}, {literal(self.slope)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        top: Array = np.minimum(x, 0) + self.slope * np.maximum(x, 0)
        return top


@layer("Truncation", "truncation_param")
@dataclass(frozen=True, slots=True)
class Truncation(Elementwise):
    """min(max(x, lower_bound), upper_bound)."""

    low: float = 0.0
    high: float = 5.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("lower_bound", 0.0), params.get("upper_bound", 5.0))

    def call(self, at: Site) -> str:
        return f"jnp.clip({at.x}, {literal(self.low)}, {literal(self.high)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = np.minimum(np.maximum(inputs[0], self.low), self.high)
        return top


@layer("LogSoftmax", "log_softmax_param")
@dataclass(frozen=True, slots=True)
class LogSoftmax(Elementwise):
    """The logarithm of the softmax along `axis`."""

    softmax_axis: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("axis", 1))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        canonical_axis(self.softmax_axis, len(inputs[0]))
        return inputs

    def call(self, at: Site) -> str:
        axis = at.axis(canonical_axis(self.softmax_axis, len(at.input.shape)))
        return f"nnx.log_softmax({arguments(at.x, axis=unless(axis, -1))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        x = x - x.max(self.softmax_axis, keepdims=True)
        top: Array = x - np.log(np.exp(x).sum(self.softmax_axis, keepdims=True))
        return top
