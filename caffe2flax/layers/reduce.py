"""Sums along axes, and the largest entries along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import NumbersClasses
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("Reduction", "reduction_param")
@dataclass(frozen=True, slots=True)
class Reduction(Layer):
    """coeff * SUM x, ASUM |x|, SUMSQ x^2 or MEAN x over all axes from `axis` on."""

    in_place = False

    operation: str = "SUM"
    first_axis: int = 0
    coeff: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        words = ("", "SUM", "ASUM", "SUMSQ", "MEAN")
        operation = params.choice("operation", *words, default="SUM")
        return cls(operation, params.get("axis", 0), params.get("coeff", 1.0))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        return (shape[: canonical_axis(self.first_axis, len(shape))],)

    def layouts(self, *inputs: Operand) -> Layouts:
        """Any layout; the axes that remain keep their order."""
        (layout,) = (x.layout for x in inputs)
        axis = canonical_axis(self.first_axis, layout.rank)
        kept = tuple(a for a in layout.axes if a < axis)
        return Layouts((layout,), (Layout(kept, layout.orders[:axis]),))

    def call(self, at: Site) -> str:
        layout = at.input.layout
        first = canonical_axis(self.first_axis, layout.rank)
        reduced = [i for i, a in enumerate(layout.axes) if a >= first]
        axes = f", axis={literal(tuple(reduced))}" if first else ""
        if len(reduced) == 1 and first:
            axes = f", axis={layout.position(layout.axes[reduced[0]])}"
        x = {
            "ASUM": f"jnp.abs({at.x})",
            "SUMSQ": f"jnp.square({at.x})",
        }.get(self.operation, at.x)
        function = "jnp.mean" if self.operation == "MEAN" else "jnp.sum"
        factor = "" if self.coeff == 1 else f"{literal(self.coeff)} * "
        return f"{factor}{function}({x}{axes})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        first = canonical_axis(self.first_axis, x.ndim)
        flat = x.reshape(*x.shape[:first], prod(x.shape[first:]))
        if self.operation == "MEAN":
            return np.asarray(self.coeff * flat.mean(-1))
        terms = {"ASUM": np.abs, "SUMSQ": np.square}.get(self.operation, np.positive)
        return np.asarray(self.coeff * terms(flat).sum(-1))


@layer("ArgMax", "argmax_param")
@dataclass(frozen=True, slots=True)
class ArgMax(Layer, NumbersClasses):
    """Indices of the `top_k` largest entries of an item or along `axis`, or the values.

    Without `axis` the top is (N, 1, top_k, 1, ...), or with `out_max_val`
    (N, 2, top_k, 1, ...) of indices and values; with both, only the values. Of equal
    entries the one with the larger index comes first.
    """

    in_place = False

    axis: int | None = None
    top_k: int = 1
    values: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        top_k = params.get("top_k", 1)
        if top_k < 1:
            params.error("top_k", f"top_k must be positive, not {top_k}")
        axis = params.optional("axis", int)
        return cls(axis, top_k, params.get("out_max_val", False))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        rank = len(shape)
        axis = canonical_axis(0 if self.axis is None else self.axis, rank)
        searched = prod(shape[1:]) if self.axis is None else shape[axis]
        if self.top_k > searched:
            raise ConversionError(f"top_k {self.top_k} of only {searched} entries")
        if self.axis is not None:
            return ((*shape[:axis], self.top_k, *shape[axis + 1 :]),)
        return ((shape[0], 2 if self.values else 1, self.top_k, *(1,) * (rank - 3)),)

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        if self.axis is None:
            rank = len(x.shape)
            return Layouts((Layout.caffe(rank),), (Layout.caffe(max(rank, 3)),))
        layout = x.layout.plain(canonical_axis(self.axis, len(x.shape)))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        top_k = unless(self.top_k, 1)
        if self.axis is None:
            both = unless(self.values, False)
            return f"argmax_items({arguments(at.x, top_k=top_k, with_values=both)})"
        function = "largest_entries" if self.values else "argmax"
        axis = at.axis(self.axis)
        return f"{function}({arguments(at.x, axis=axis, top_k=top_k)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        if self.axis is None:
            rows = x.reshape(len(x), prod(x.shape[1:]))
        else:
            rows = np.moveaxis(x, self.axis, -1)
        # After a stable sort of the reversed entries, later ones of equals are first.
        order = np.argsort(-rows[..., ::-1], axis=-1, kind="stable")
        indices = rows.shape[-1] - 1 - order[..., : self.top_k]
        values = np.take_along_axis(rows, indices, -1)
        if self.axis is not None:
            top = values if self.values else indices.astype(np.float64)
            return np.moveaxis(top, -1, self.axis)
        parts = [indices.astype(np.float64), *([values] if self.values else [])]
        return np.stack(parts, 1).reshape(shape)
