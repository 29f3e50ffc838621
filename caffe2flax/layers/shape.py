"""Flatten and Reshape: the same elements in another shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Rearranges
from caffe2flax.ir.classes import PerClass
from caffe2flax.ir.layer import canonical_axis
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._reshape import ReshapeLayer


@layer("Flatten", "flatten_param")
@dataclass(frozen=True, slots=True)
class Flatten(ReshapeLayer):
    """Axes `axis` to `end_axis` as one."""

    axis: int = 1
    end_axis: int = -1

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("axis", 1), params.get("end_axis", -1))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        start = canonical_axis(self.axis, len(shape))
        end = canonical_axis(self.end_axis, len(shape), "end_axis")
        if end < start - 1:  # the axis just before it: Caffe inserts an axis of 1
            raise ConversionError(
                f"end_axis {self.end_axis} is before axis {self.axis}"
            )
        return ((*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]),)


@layer("Reshape", "reshape_param")
@dataclass(frozen=True, slots=True)
class Reshape(ReshapeLayer, Rearranges, PerClass):
    """`num_axes` axes from `axis` become `shape`: 0 copies, -1 takes what remains."""

    dims: Shape = ()
    axis: int = 0
    num_axes: int = -1

    @classmethod
    def parse(cls, params: Params) -> Self:
        shape = params.sub("shape")
        dims = shape.all("dim", int)
        if dims.count(-1) > 1:
            shape.error("dim", "only one dim may be -1")
        if any(dim < -1 for dim in dims):
            shape.error("dim", f"dims must be -1 or more, not {dims}")
        num_axes = params.get("num_axes", -1)
        if num_axes < -1:
            params.error("num_axes", f"num_axes must be -1 or more, not {num_axes}")
        return cls(dims, params.get("axis", 0), num_axes)

    def with_classes(self, count: int, other: int) -> Reshape | None:
        if self.dims.count(count) != 1:
            return None
        dims = tuple(other if dim == count else dim for dim in self.dims)
        return replace(self, dims=dims)

    def inferred(self, shape: Shape) -> int | None:
        if -1 not in self.dims:
            return None
        start = self.axis if self.axis >= 0 else len(shape) + self.axis + 1
        return start + self.dims.index(-1)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        rank = len(shape)
        start = self.axis if self.axis >= 0 else rank + self.axis + 1
        end = rank if self.num_axes < 0 else start + self.num_axes
        if not 0 <= start <= end <= rank:
            raise ConversionError(
                f"axis {self.axis} and num_axes {self.num_axes} do not fit a blob of "
                f"{rank} axes"
            )
        beyond = [
            i for i, dim in enumerate(self.dims) if dim == 0 and start + i >= rank
        ]
        if beyond:
            raise ConversionError(
                f"dim {beyond[0]} is 0, but the bottom has no such axis"
            )
        middle = [shape[start + i] if d == 0 else d for i, d in enumerate(self.dims)]
        result = [*shape[:start], *middle, *shape[end:]]
        count = prod(shape)
        if -1 in result:
            known = -prod(result)
            if not known or count % known:
                raise ConversionError(
                    f"no dim for -1: {count} elements of {shape} do not fill {result}"
                )
            result[result.index(-1)] = count // known
        if prod(result) != count:
            raise ConversionError(
                f"the bottom {shape} has {count} elements, the shape {tuple(result)} "
                f"{prod(result)}"
            )
        return (tuple(result),)
