"""Layers that split or repeat a blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import PassesValues, Rearranges
from caffe2flax.ir.call import literal
from caffe2flax.ir.coordinates import Pointwise
from caffe2flax.ir.layer import Array, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Operand, Shape, repeat_order, split_order
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("Split")
@dataclass(frozen=True, slots=True)
class Split(Layer, Pointwise, PassesValues):
    """Its bottom, once for each top."""

    tops = (1, None)
    in_place = False

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


@layer("Silence")
@dataclass(frozen=True, slots=True)
class Silence(Layer):
    """Nothing: it keeps Caffe from printing blobs that no layer reads."""

    bottoms = (1, None)
    tops = 0

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return ()

    def call(self, at: Site) -> str:
        return "()"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        return ()


@layer("Slice", "slice_param")
@dataclass(frozen=True, slots=True)
class Slice(Layer, Rearranges):
    """Its bottom cut along `axis` at each `slice_point`, or into equal parts."""

    tops = (1, None)
    in_place = False

    count: int
    slice_axis: int = 1
    points: tuple[int, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        old, axis = params.optional("slice_dim", int), params.optional("axis", int)
        if old is not None and axis is not None:
            params.error("slice_dim", "give axis or slice_dim, not both")
        if old is not None and old < 0:
            params.error("slice_dim", "slice_dim cannot be negative; use axis")
        points = params.all("slice_point", int)
        if points and len(points) != params.tops - 1:
            text = f"{len(points)} slice_point make {len(points) + 1} tops, not "
            params.error("slice_point", text + str(params.tops))
        if any(low >= high for low, high in pairwise((0, *points))):
            text = f"slice_point must be positive and grow, not {points}"
            params.error("slice_point", text)
        axis = next((a for a in (old, axis) if a is not None), 1)
        return cls(params.tops, axis, points)

    def _sizes(self, shape: Shape) -> list[int]:
        axis = canonical_axis(self.slice_axis, len(shape))
        extent = shape[axis]
        if not self.points:
            if extent % self.count:
                raise ConversionError(
                    f"{self.count} tops do not divide the extent {extent} of axis "
                    f"{axis}; give slice_point"
                )
            return [extent // self.count] * self.count
        if self.points[-1] >= extent:
            raise ConversionError(
                f"slice_point {self.points[-1]} is beyond the extent {extent} of axis "
                f"{axis}"
            )
        return [high - low for low, high in pairwise((0, *self.points, extent))]

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        axis = canonical_axis(self.slice_axis, len(shape))
        return tuple(
            (*shape[:axis], size, *shape[axis + 1 :]) for size in self._sizes(shape)
        )

    def layouts(self, *inputs: Operand) -> Layouts:
        """Each part keeps its segments of an axis that is stored in another order, if
        the cuts are between segments."""
        (x,) = inputs
        axis = canonical_axis(self.slice_axis, len(x.shape))
        parts = split_order(x.layout.orders[axis], self._sizes(x.shape))
        if parts is None:
            plain = x.layout.plain(axis)
            return Layouts((plain,), (plain,) * self.count)
        outputs = (x.layout.with_order(axis, part) for part in parts)
        return Layouts((x.layout,), tuple(outputs))

    def call(self, at: Site) -> str:
        if self.count == 1:
            return at.x
        cuts = list(self.points) or self.count
        return f"jnp.split({at.x}, {cuts}, axis={at.axis(self.slice_axis)})"

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        (x,) = inputs
        cuts = np.cumsum(self._sizes(x.shape))[:-1]
        parts = tuple(np.split(x, cuts, canonical_axis(self.slice_axis, x.ndim)))
        return parts if len(parts) > 1 else parts[0]


@layer("Tile", "tile_param")
@dataclass(frozen=True, slots=True)
class Tile(Layer, Rearranges):
    """Its bottom `tiles` times, one copy after the other along `axis`."""

    in_place = False

    tiles: int
    tile_axis: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        tiles = params.require("tiles", int)
        if tiles < 1 and params.has("tiles"):
            params.error("tiles", f"tiles must be positive, not {tiles}")
        return cls(tiles, params.get("axis", 1))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        axis = canonical_axis(self.tile_axis, len(shape))
        return ((*shape[:axis], shape[axis] * self.tiles, *shape[axis + 1 :]),)

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        axis = canonical_axis(self.tile_axis, len(x.shape))
        order = repeat_order(x.layout.orders[axis], self.tiles)
        if order is None:
            plain = x.layout.plain(axis)
            return Layouts((plain,), (plain,))
        return Layouts((x.layout,), (x.layout.with_order(axis, order),))

    def call(self, at: Site) -> str:
        if self.tiles == 1:
            return at.x
        axis = canonical_axis(self.tile_axis, len(at.input.shape))
        counts = tuple(self.tiles if a == axis else 1 for a in at.input.layout.axes)
        return f"jnp.tile({at.x}, {literal(counts)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.concatenate(inputs * self.tiles, self.tile_axis)
