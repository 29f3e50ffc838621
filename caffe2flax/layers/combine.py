"""Several blobs into one, and one into several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layout import Layout, Operand, Shape, join_orders
from caffe2flax.params import Params
from caffe2flax.registry import (
    Array,
    Layer,
    Layouts,
    Site,
    canonical_axis,
    layer,
    literal,
)


def shared_layout(inputs: Sequence[Operand]) -> Layout:
    """One layout for blobs of the same rank: that of all, or channels last if one has it."""
    layouts = [operand.layout for operand in inputs]
    if len(set(layouts)) == 1:
        return layouts[0]
    axes = [layout.axes for layout in layouts]
    last = Layout.channels_last(layouts[0].rank)
    return last if last.axes in axes else Layout.caffe(layouts[0].rank)


@layer("Eltwise", "eltwise_param")
@dataclass(frozen=True, slots=True)
class Eltwise(Layer):
    """Sum with coefficients (SUM), product (PROD) or maximum (MAX) of blobs of one shape."""

    bottoms = (2, None)

    operation: str = "SUM"
    coeff: tuple[float, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("stable_prod_grad")
        operation = params.choice("operation", "PROD", "SUM", "MAX", default="SUM")
        coeff = params.all("coeff", float)
        if coeff and len(coeff) != params.bottoms:
            text = f"{len(coeff)} coeff for {params.bottoms} bottoms: give one each"
            params.error("coeff", text)
        if coeff and operation == "PROD":
            params.error("coeff", "coeff works with SUM only")
        return cls(operation, coeff if operation == "SUM" else ())

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(set(inputs)) > 1:
            shapes = ", ".join(map(str, inputs))
            raise ConversionError(f"all bottoms must have one shape, not {shapes}")
        return inputs[:1]

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = shared_layout(inputs)
        return Layouts((layout,) * len(inputs), (layout,))

    def call(self, at: Site) -> str:
        if self.operation == "MAX":
            return reduce(lambda a, b: f"jnp.maximum({a}, {b})", at.args)
        if self.operation == "PROD":
            return " * ".join(at.operands)
        coeff = self.coeff or (1.0,) * len(at.args)
        terms = [_term(c, x) for c, x in zip(coeff, at.operands, strict=True)]
        first = "-" if coeff[0] < 0 else ""
        return first + "".join(terms)[len(" + ") :]

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        if self.operation == "MAX":
            return reduce(np.maximum, inputs)
        if self.operation == "PROD":
            return reduce(np.multiply, inputs)
        coeff = self.coeff or (1.0,) * len(inputs)
        return reduce(np.add, (c * x for c, x in zip(coeff, inputs, strict=True)))


def _term(coeff: float, x: str) -> str:
    sign = " - " if coeff < 0 else " + "
    return sign + (x if abs(coeff) == 1 else f"{literal(abs(coeff))} * {x}")


@layer("Concat", "concat_param")
@dataclass(frozen=True, slots=True)
class Concat(Layer):
    """The bottoms one behind the other along `axis`."""

    bottoms = (1, None)
    in_place = False

    concat_axis: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        old, axis = params.optional("concat_dim", int), params.optional("axis", int)
        if old is not None and axis is not None:
            params.error("concat_dim", "give axis or concat_dim, not both")
        if old is not None and old < 0:
            params.error("concat_dim", "concat_dim cannot be negative; use axis")
        return cls(next((a for a in (old, axis) if a is not None), 1))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape = inputs[0]
        axis = canonical_axis(self.concat_axis, len(shape))
        for other in inputs[1:]:
            rest = (*other[:axis], *other[axis + 1 :])
            if len(other) != len(shape) or rest != (*shape[:axis], *shape[axis + 1 :]):
                shapes = ", ".join(map(str, inputs))
                raise ConversionError(
                    f"bottoms must agree on all axes but axis {axis}, not {shapes}"
                )
        total = sum(other[axis] for other in inputs)
        return ((*shape[:axis], total, *shape[axis + 1 :]),)

    def layouts(self, *inputs: Operand) -> Layouts:
        axis = canonical_axis(self.concat_axis, len(inputs[0].shape))
        common = shared_layout([_without_order(operand, axis) for operand in inputs])
        orders = [
            (
                x.layout.orders[axis] if x.layout.axes == common.axes else (),
                x.shape[axis],
            )
            for x in inputs
        ]
        wanted = tuple(common.with_order(axis, order) for order, _ in orders)
        return Layouts(wanted, (common.with_order(axis, join_orders(orders)),))

    def call(self, at: Site) -> str:
        if len(at.args) == 1:
            return at.x
        blobs = ", ".join(at.args)
        return f"jnp.concatenate([{blobs}], axis={at.axis(self.concat_axis)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.concatenate(inputs, self.concat_axis)


def _without_order(operand: Operand, axis: int) -> Operand:
    return Operand(operand.shape, operand.layout.plain(axis), operand.scaled)


@layer("Split")
@dataclass(frozen=True, slots=True)
class Split(Layer):
    """Its bottom, once for each top."""

    tops = (1, None)

    count: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.tops)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return inputs * self.count

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((inputs[0].layout,), (inputs[0].layout,) * self.count)

    def call(self, at: Site) -> str:
        return ", ".join([at.x] * self.count)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        return inputs * self.count
