"""Several blobs into one: Eltwise and Concat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.ir.coordinates import Pointwise
from caffe2flax.ir.layer import Array, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape, join_orders
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import one_shape


def shared_layout(inputs: Sequence[Operand]) -> Layout:
    """One layout for blobs of the same rank: the one they all have, or channels
    last."""
    layouts = [operand.layout for operand in inputs]
    if len(set(layouts)) == 1:
        return layouts[0]
    axes = [layout.axes for layout in layouts]
    last = Layout.channels_last(layouts[0].rank)
    return last if last.axes in axes else Layout.caffe(layouts[0].rank)


@layer("Eltwise", "eltwise_param")
@dataclass(frozen=True, slots=True)
class Eltwise(Layer, Pointwise):
    """Sum with coefficients (SUM), product (PROD) or maximum (MAX) of several blobs."""

    bottoms = (2, None)

    operation: str = "SUM"
    coeff: tuple[float, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        # The other method for the gradient of PROD divides by the factors: 0 / 0 at 0.
        params.ignore("stable_prod_grad")
        operation = params.choice("operation", "PROD", "SUM", "MAX", default="SUM")
        coeff = params.all("coeff", float)
        if coeff and len(coeff) != params.bottoms:
            text = f"{len(coeff)} coeff for {params.bottoms} bottoms: give one each"
            params.error("coeff", text)
        if coeff and operation == "PROD":
            params.error("coeff", "coeff works with SUM only")
        if operation != "SUM":
            if operation == "MAX" and params.in_place:
                text = "in place the maximum loses its first bottom; name another top"
                params.error(None, text)
            return cls(operation)
        coeff = coeff or (1.0,) * params.bottoms
        if params.in_place:
            params.note(
                f"{params.span()}: a sum in place loses its first bottom, in Caffe and "
                "so here too"
            )
            coeff = (0.0, *coeff[1:])
        return cls(operation, coeff)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return (one_shape(inputs),)

    def caption(self, *inputs: Shape) -> str:
        return self.operation

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = shared_layout(inputs)
        return Layouts((layout,) * len(inputs), (layout,))

    def call(self, at: Site) -> str:
        if self.operation == "MAX":
            return f"largest({', '.join(at.args)})"
        if self.operation == "PROD":
            return " * ".join(at.operands)
        pairs = list(zip(self.coeff, at.operands, strict=True))
        pairs = [pair for pair in pairs if pair[0]] or pairs[:1]
        first = "-" if pairs[0][0] < 0 else ""
        return first + "".join(_term(c, x) for c, x in pairs)[len(" + ") :]

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        if self.operation == "MAX":
            return reduce(np.maximum, inputs)
        if self.operation == "PROD":
            return reduce(np.multiply, inputs)
        return reduce(np.add, (c * x for c, x in zip(self.coeff, inputs, strict=True)))


def _term(coeff: float, x: str) -> str:
    sign = " - " if coeff < 0 else " + "
    return sign + (x if abs(coeff) == 1 else f"{literal(abs(coeff))} * {x}")


@layer("Concat", "concat_param")
@dataclass(frozen=True, slots=True)
class Concat(Layer, Pointwise):
    """The bottoms one after the other along `axis`."""

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
        blobs, axis = ", ".join(at.args), at.axis(self.concat_axis)
        return f"jnp.concatenate([{blobs}], axis={axis})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.concatenate(inputs, self.concat_axis)


def _without_order(operand: Operand, axis: int) -> Operand:
    return Operand(operand.shape, operand.layout.plain(axis), operand.scaled)
