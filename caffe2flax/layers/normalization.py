"""Normalization by the statistics of the blob itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Probabilities
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Elementwise, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("MVN", "mvn_param")
@dataclass(frozen=True, slots=True)
class MVN(Layer):
    """(x - mean) / (std + eps) over height and width.

    `across_channels`: over channels too. The top has 4 axes; a bottom with fewer gets
    axes of extent 1.
    """

    normalize_variance: bool = True
    across_channels: bool = False
    eps: float = 1e-9

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(
            params.get("normalize_variance", True),
            params.get("across_channels", False),
            params.get("eps", 1e-9),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if len(shape) > 4:
            raise ConversionError(f"MVN needs a blob of at most 4 axes, not {shape}")
        return ((*shape, *(1,) * (4 - len(shape))),)

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        layout = x.layout if len(x.shape) == 4 else Layout.caffe(len(x.shape))
        output = layout if len(x.shape) == 4 else Layout.caffe(4)
        return Layouts((layout,), (output,))

    @property
    def _axes(self) -> tuple[int, ...]:
        return (1, 2, 3) if self.across_channels else (2, 3)

    def call(self, at: Site) -> str:
        x = at.x
        if len(at.input.shape) < 4:
            dims = ", ".join(map(str, at.output.reshape_dims()))
            x = f"{at.operands[0]}.reshape({dims})"
        axes = literal(tuple(sorted(at.output.axis(a) % 4 for a in self._axes)))
        if not self.normalize_variance:
            return f"subtract_mean({x}, {axes})"
        return f"mvn({arguments(x, axes, eps=unless(self.eps, 1e-9))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (shape,) = self.infer(inputs[0].shape)
        x = inputs[0].reshape(shape)
        top: Array = x - x.mean(self._axes, keepdims=True)
        if not self.normalize_variance:
            return top
        top /= x.std(self._axes, keepdims=True) + self.eps
        return top


@layer("Softmax", "softmax_param")
@dataclass(frozen=True, slots=True)
class Softmax(Elementwise, Probabilities):
    """exp(x) / sum of exp(x) along `axis`."""

    of_classes = True

    softmax_axis: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("axis", 1))

    def class_axis(self, rank: int) -> int:
        return canonical_axis(self.softmax_axis, rank)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        canonical_axis(self.softmax_axis, len(inputs[0]))
        return inputs

    def call(self, at: Site) -> str:
        axis = at.axis(canonical_axis(self.softmax_axis, len(at.input.shape)))
        return f"nnx.softmax({arguments(at.x, axis=unless(axis, -1))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        powers = np.exp(x - x.max(self.softmax_axis, keepdims=True))
        top: Array = powers / powers.sum(self.softmax_axis, keepdims=True)
        return top
