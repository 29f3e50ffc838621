"""Layers that add or remove axes of extent 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.layer import canonical_axis
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._reshape import ReshapeLayer


@layer("Squeeze", "squeeze_param")
@dataclass(frozen=True, slots=True)
class Squeeze(ReshapeLayer):
    """The bottom without the axes `axis`, or without all of extent 1."""

    in_place = False

    removed: tuple[int, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.all("axis", int))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        axes = {canonical_axis(axis, len(shape)) for axis in self.removed}
        for axis in axes:
            if shape[axis] != 1:
                raise ConversionError(
                    f"axis {axis} of {shape} has the extent {shape[axis]}, not 1"
                )
        if not self.removed:
            return (tuple(extent for extent in shape if extent != 1),)
        return (tuple(extent for i, extent in enumerate(shape) if i not in axes),)


@layer("Unsqueeze", "unsqueeze_param")
@dataclass(frozen=True, slots=True)
class Unsqueeze(ReshapeLayer):
    """The bottom with an axis of extent 1 before its axis `dim`."""

    in_place = False

    dim: int = 0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.require("dim", int))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        at = canonical_axis(self.dim, len(shape) + 1, "dim")
        return ((*shape[:at], 1, *shape[at:]),)


@layer("ExpandDimsND", "expand_dims_nd_param")
@dataclass(frozen=True, slots=True)
class ExpandDimsND(ReshapeLayer):
    """The bottom with an axis of extent 1 before each of its axes `axis`."""

    in_place = False

    added: tuple[int, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.all("axis", int))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        top = list(shape)
        for i, axis in enumerate(self.added):
            place = canonical_axis(axis, len(shape) + 1)
            if place + i > len(top):
                raise ConversionError(f"axis {axis} is out of range for {shape}")
            top.insert(place + i, 1)
        return (tuple(top),)
