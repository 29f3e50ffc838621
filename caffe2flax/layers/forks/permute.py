"""Another order of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Rearranges
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("Permute", "permute_param")
@dataclass(frozen=True, slots=True)
class Permute(Layer, Rearranges):
    """The axes in the order `order`, followed by those that it does not name."""

    in_place = False

    order: tuple[int, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        order = params.all("order", int)
        if any(axis < 0 for axis in order):
            params.error("order", f"order counts axes from 0, not {order}")
        if len(set(order)) < len(order):
            params.error("order", f"order names an axis twice: {order}")
        return cls(order)

    def _whole(self, rank: int) -> tuple[int, ...]:
        if any(axis >= rank for axis in self.order):
            raise ConversionError(
                f"order {self.order} names an axis that a blob of {rank} axes lacks"
            )
        return (*self.order, *(i for i in range(rank) if i not in self.order))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        return (tuple(shape[axis] for axis in self._whole(len(shape))),)

    def layouts(self, *inputs: Operand) -> Layouts:
        # No data moves: the same array, with its axes renamed.
        (have,) = (operand.layout for operand in inputs)
        order = self._whole(have.rank)
        axes = tuple(order.index(axis) for axis in have.axes)
        return Layouts((have,), (Layout(axes, tuple(have.orders[a] for a in order)),))

    def call(self, at: Site) -> str:
        return at.x

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return x.transpose(self._whole(x.ndim))
