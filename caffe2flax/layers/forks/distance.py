"""Distances to learned points, and blobs of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import RNGS, Call, arguments, literal, unless
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import (
    Array,
    Blob,
    Layer,
    Layouts,
    Site,
    canonical_axis,
)
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import initializer
from caffe2flax.layers._fields import filler


@layer("InnerDistance", "inner_distance_param")
@dataclass(frozen=True, slots=True)
class InnerDistance(Layer):
    """Sum of (x - w)^2 for each row w of the weight, or of |x - w| by distance_type L1.

    A second bottom is the weight.
    """

    bottoms = (1, 2)
    in_place = False

    num_output: int
    flattened: int = 1
    absolute: bool = False
    unit: bool = False
    weight_filler: Filler = Filler()

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("bias_term", "bias_filler")
        count = params.get("num_output", 0)
        if count < 1 and params.bottoms == 1:
            params.error(None, "inner_distance_param needs a positive num_output")
        way = params.get("distance_type", "L2")
        if way not in ("L1", "L2"):
            params.error("distance_type", f"distance_type is L1 or L2, not {way!r}")
        if params.get("transpose", False):
            params.unsupported("transpose", "the fork does not compute with transpose")
        if params.get("update_center_only", False) and params.bottoms > 1:
            params.unsupported(
                "update_center_only", "it is for training, and not converted"
            )
        return cls(
            count,
            params.get("axis", 1),
            way == "L1",
            params.get("normalize", False) and params.bottoms == 1,
            filler(params, "weight_filler"),
        )

    def _flat(self, shape: Shape) -> tuple[int, int]:
        """The first axis that is flattened, and the extent of the flattened axis."""
        axis = canonical_axis(self.flattened, len(shape))
        return axis, prod(shape[axis:])

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        axis, extent = self._flat(inputs[0])
        count = self.num_output
        if len(inputs) == 2:
            count = inputs[1][0] if inputs[1] else 0
            if prod(inputs[1]) != count * extent or not count:
                raise ConversionError(
                    f"rows of {extent} numbers are needed, not a blob {inputs[1]}"
                )
        return ((*inputs[0][:axis], count),)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        if len(inputs) == 2:
            return ()
        shape = (self.num_output, self._flat(inputs[0])[1])
        return (Blob(shape, self.weight_filler),)

    def names(self) -> tuple[str, ...]:
        return ("value",)

    def build(self, at: Site) -> Call | None:
        if len(at.inputs) == 2:
            return None
        ((shape, own),) = self.blobs(at.input.shape)
        init = initializer(at.initialise, own, shape, Filler())
        return Call.of("Points", shape, value_init=init, rngs=RNGS)

    def call(self, at: Site) -> str:
        axis, _ = self._flat(at.input.shape)
        weight = at.args[1] if len(at.args) == 2 else f"{at.module}()"
        options = {
            "axis": unless(axis, 1),
            "absolute": unless(self.absolute, False),
            "unit": unless(self.unit, False),
        }
        return f"distances({arguments(at.x, weight, **options)})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        return {"value": blobs[0]} if blobs else {}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x = inputs[0]
        axis, extent = self._flat(x.shape)
        weight = (inputs[1] if len(inputs) == 2 else blobs[0]).reshape(-1, extent)
        if self.unit:
            weight = weight / np.sqrt((weight**2).sum(1, keepdims=True) + 1e-6)
        apart = x.reshape(*x.shape[:axis], 1, extent) - weight
        top: Array = (np.abs(apart) if self.absolute else apart**2).sum(-1)
        return top


@layer("L2Normalize")
@dataclass(frozen=True, slots=True)
class L2Normalize(Layer):
    """Each item divided by the root of (1e-7 + its sum of squares)."""

    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if not inputs[0]:
            raise ConversionError("a blob without axes has no items")
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        layout = x.layout if x.leads(1) else Layout.caffe(len(x.shape))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        return f"unit_items({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        axes = tuple(range(1, x.ndim))
        top: Array = x / np.sqrt((x * x).sum(axes, keepdims=True) + 1e-7)
        return top


@layer("Flip", "flip_param")
@dataclass(frozen=True, slots=True)
class Flip(Layer):
    """Columns in reverse order, unless flip_width is false; rows by flip_height."""

    in_place = False

    flipped: tuple[int, ...] = (3,)

    @classmethod
    def parse(cls, params: Params) -> Self:
        wide, high = params.get("flip_width", True), params.get("flip_height", False)
        return cls((*(2,) * high, *(3,) * wide))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 4:
            raise ConversionError(f"needs a blob of 4 axes, not {inputs[0]}")
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout.plain(*self.flipped)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        axes = tuple(at.axis(axis) % 4 for axis in self.flipped)
        if not axes:
            return at.x
        return f"jnp.flip({at.x}, {literal(axes[0] if len(axes) == 1 else axes)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.flip(inputs[0], self.flipped)
