"""Layers for optical flow, of LiteFlowNet and PWC-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Elementwise, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import older_or_own
from caffe2flax.layers._forks import Frames, images


@layer("Grid")
@dataclass(frozen=True, slots=True)
class Grid(Frames):
    """The column (channel 0) and the row (channel 1) of each pixel of x."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, _, *size = images(self.type, inputs[0])
        return ((n, 2, *size),)

    def call(self, at: Site) -> str:
        return f"pixel_grid({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        n, _, height, width = inputs[0].shape
        rows, columns = np.indices((height, width), np.float64)
        return np.stack([np.stack([columns, rows])] * n)


@layer("Warp")
@dataclass(frozen=True, slots=True)
class Warp(Frames):
    """x at the places in the second bottom, interpolated, 0 outside; LiteFlowNet gives
    coordinates, PWC-Net the flow from each pixel."""

    bottoms = 2

    flow: bool = False
    """Whether the second bottom is a flow; then what is not between pixels is 0."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        meaning = params.dialect("Warp")
        if not meaning and "Grid" in params.types:
            why = "the net has a Grid, to which the flow is added"
            meaning = params.decided("Warp", "coordinates", why)
        elif not meaning:
            meaning = params.decided("Warp", "flow", "the net has no Grid")
        return cls(meaning == "flow")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, places = inputs
        n, _, *size = images(self.type, x)
        if places != (n, 2, *size):
            raise ConversionError(f"places in {x} are ({n}, 2, ...), not {places}")
        return (x,)

    def call(self, at: Site) -> str:
        x, places = at.args
        if self.flow:
            return f"warp({x}, pixel_grid({places}) + {places}, within=True)"
        return f"warp({x}, {places})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, places = inputs
        n, _, height, width = x.shape
        top = np.zeros(x.shape)
        for k, i, j in np.ndindex(n, height, width):
            at = places[k, ::-1, i, j].astype(np.float32)
            if self.flow:
                at = at + np.array([i, j], np.float32)
                if not (0 <= at[0] <= height - 1 and 0 <= at[1] <= width - 1):
                    continue
            low = np.floor(at)
            for y, z in np.ndindex(2, 2):
                row, column = low[0] + y, low[1] + z
                if 0 <= row < height and 0 <= column < width:
                    share = 1 - np.abs(at.astype(np.float64) - (row, column))
                    top[k, :, i, j] += share.prod() * x[k, :, int(row), int(column)]
        return top


@layer("NegSquare")
@dataclass(frozen=True, slots=True)
class NegSquare(Elementwise):
    """-x^2."""

    def call(self, at: Site) -> str:
        return f"-jnp.square({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = -(inputs[0] ** 2)
        return top


@layer("ExpMax", "exp_max_param", "expmax_param")
@dataclass(frozen=True, slots=True)
class ExpMax(Frames):
    """base^(shift + scale * (x - max)), the largest of the channels taken away."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        given = older_or_own(params, "expmax_param")
        base = given.get("base", -1.0)
        if base != -1 and not base > 0:
            given.error("base", f"base must be positive, or -1 for e, not {base}")
        return cls(base, given.get("scale", 1.0), given.get("shift", 0.0))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape = images(self.type, inputs[0])
        if shape[0] != 1:
            raise unsupported(
                "the fork's result is undefined beyond the first image: batch 1, not "
                f"{shape[0]}"
            )
        return (shape,)

    def _factors(self) -> tuple[float, float]:
        """a and b of exp(a * (x - max) + b)."""
        unit = 1.0 if self.base == -1 else float(np.log(self.base))
        return unit * self.scale, unit * self.shift

    def call(self, at: Site) -> str:
        scale, shift = self._factors()
        given = arguments(at.x, scale=unless(scale, 1.0), shift=unless(shift, 0.0))
        return f"exp_max({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        scale, shift = self._factors()
        top: Array = np.exp(scale * (x - x.max(1, keepdims=True)) + shift)
        return top
