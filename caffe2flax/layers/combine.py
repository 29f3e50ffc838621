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
from caffe2flax.layers._affine import AxisRange, along, expanded, joined, shapes
from caffe2flax.layers._fields import one_shape
from caffe2flax.layers._sides import refuse_quantised


def shared_layout(inputs: Sequence[Operand]) -> Layout:
    """One layout for blobs of the same rank: the one they all have, or channels
    last."""
    layouts = [operand.layout for operand in inputs]
    if len(set(layouts)) == 1:
        return layouts[0]
    axes = [layout.axes for layout in layouts]
    last = Layout.channels_last(layouts[0].rank)
    return last if last.axes in axes else Layout.caffe(layouts[0].rank)


OPERATIONS = ("PROD", "SUM", "MAX", "DIV", "MIN")
SIGNS = {"PROD": " * ", "DIV": " / "}
FUNCTIONS = {
    "PROD": np.multiply,
    "MAX": np.maximum,
    "DIV": np.divide,
    "MIN": np.minimum,
}


@layer("Eltwise", "eltwise_param")
@dataclass(frozen=True, slots=True)
class Eltwise(Layer, Pointwise):
    """Sum with coefficients (SUM), product (PROD) or maximum (MAX) of several blobs.

    Synopsys' fork has DIV and MIN, too, and a second bottom of fewer axes, which lie on
    those of the first from `axis` on.
    """

    bottoms = (2, None)

    operation: str = "SUM"
    coeff: tuple[float, ...] = ()
    axis: int = 0

    @classmethod
    def parse(cls, params: Params) -> Self:
        # The other method for the gradient of PROD divides by the factors: 0 / 0 at 0.
        params.ignore("stable_prod_grad")
        refuse_quantised(params)
        operation = params.choice("operation", *OPERATIONS, default="SUM")
        axis = params.get("axis", 0)
        coeff = params.all("coeff", float)
        if coeff and len(coeff) != params.bottoms:
            text = f"{len(coeff)} coeff for {params.bottoms} bottoms: give one each"
            params.error("coeff", text)
        if coeff and operation in ("PROD", "DIV", "MIN"):
            params.error("coeff", "coeff works with SUM only")
        if operation == "DIV" and params.bottoms != 2:
            params.error("operation", f"DIV is of two bottoms, not {params.bottoms}")
        if operation != "SUM":
            if operation in ("MAX", "MIN") and params.in_place:
                what = {"MAX": "maximum", "MIN": "minimum"}[operation]
                text = f"in place the {what} loses its first bottom; name another top"
                params.error(None, text)
            return cls(operation, axis=axis)
        coeff = coeff or (1.0,) * params.bottoms
        if params.in_place:
            params.note(
                f"{params.span()}: a sum in place loses its first bottom, in Caffe and "
                "so here too"
            )
            coeff = (0.0, *coeff[1:])
        return cls(operation, coeff, axis)

    def _span(self, *inputs: Shape) -> tuple[int, int] | None:
        """The axes of the first bottom that the second one has; None where all bottoms
        have one shape. Raises ConversionError."""
        if not self.axis and (len(inputs) < 2 or len(inputs[1]) >= len(inputs[0])):
            one_shape(inputs)
            return None
        one_shape((inputs[0], *inputs[2:]))
        return AxisRange(self.axis).second(*inputs[:2])

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        self._span(*inputs)
        return inputs[:1]

    def caption(self, *inputs: Shape) -> str:
        return self.operation

    def layouts(self, *inputs: Operand) -> Layouts:
        span = self._span(*shapes(inputs))
        if span is not None:
            own, top = joined(inputs[0], inputs[1], span[0])
            return Layouts((*own, *top * (len(inputs) - 2)), top)
        layout = shared_layout(inputs)
        return Layouts((layout,) * len(inputs), (layout,))

    def call(self, at: Site) -> str:
        args, operands = list(at.args), list(at.operands)
        span = self._span(*shapes(at.inputs))
        if span is not None:
            args[1] = operands[1] = expanded(at.input, operands[1], *span)
        if self.operation == "MAX":
            return f"largest({', '.join(args)})"
        if self.operation == "MIN":
            return reduce(lambda y, x: f"jnp.minimum({y}, {x})", args)
        if self.operation in SIGNS:
            return SIGNS[self.operation].join(operands)
        pairs = list(zip(self.coeff, operands, strict=True))
        pairs = [pair for pair in pairs if pair[0]] or pairs[:1]
        first = "-" if pairs[0][0] < 0 else ""
        return first + "".join(_term(c, x) for c, x in pairs)[len(" + ") :]

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        span = self._span(*(x.shape for x in inputs))
        if span is not None:
            inputs = (inputs[0], along(inputs[1], inputs[0], span[0]), *inputs[2:])
        if self.operation != "SUM":
            return reduce(FUNCTIONS[self.operation], inputs)
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
