"""Layers for optical flow, of FlowNet and DispNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import one_shape
from caffe2flax.layers._forks import Frames, images, positive

MOST = 2**20
"""Channels of a Correlation: one for each displacement."""


@layer("Correlation", "correlation_param")
@dataclass(frozen=True, slots=True)
class Correlation(Frames):
    """The mean product of patches of two blobs, with a channel for each displacement.

    With correlation_type SUBTRACT, the mean absolute difference.
    """

    bottoms = 2

    flat: ClassVar[bool] = False
    """Whether patches are displaced only horizontally."""

    kernel: int
    reach: int
    pad: int
    strides: tuple[int, int]
    subtract: bool = False
    direction: int = 0

    @classmethod
    def parse(cls, params: Params) -> Self:
        # The fork reads do_abs and does not use it.
        params.ignore("do_abs")
        kernel = positive(params, "kernel_size")
        if kernel % 2 == 0:
            params.error("kernel_size", f"kernel_size must be odd, not {kernel}")
        reach = params.require("max_displacement", int)
        pad = params.get("pad", 0)
        for name, value in (("max_displacement", reach), ("pad", pad)):
            if value < 0:
                params.error(name, f"{name} cannot be {value}")
        strides = positive(params, "stride_1", 1), positive(params, "stride_2", 1)
        side = 2 * (max(reach, 0) // strides[1]) + 1
        if side ** (1 if cls.flat else 2) > MOST:
            text = f"max_displacement {reach} makes more than {MOST} channels"
            params.error("max_displacement", text)
        way = params.choice("correlation_type", "MULTIPLY", "SUBTRACT")
        direction = params.get("single_direction", 0)
        if direction not in (-1, 0, 1):
            params.error("single_direction", "single_direction is -1, 0 or 1")
            direction = 0
        if not cls.flat and params.has("single_direction") and direction:
            params.error("single_direction", "single_direction is for Correlation1D")
        return cls(kernel, max(reach, 0), pad, strides, way == "SUBTRACT", direction)

    @property
    def shifts(self) -> tuple[tuple[int, int], ...]:
        """The displacement of the second blob, in rows and columns, for each
        channel."""
        radius = self.reach // self.strides[1]
        # In the fork, the displacements to the left begin one step too far.
        low = {-1: -radius - 1, 0: -radius, 1: 0}[self.direction]
        high = -1 if self.direction < 0 else radius
        along = [step * self.strides[1] for step in range(low, high + 1)]
        return tuple((i, j) for i in ([0] if self.flat else along) for j in along)

    @property
    def excess(self) -> int:
        """Columns of zeros that are read beyond the left edge, from the row before."""
        return max(-min(j for _, j in self.shifts) - self.reach, 0)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, _, *size = images(self.type, one_shape(inputs))
        pads = (0 if self.flat else self.pad, self.pad)
        reach = (0 if self.flat else self.reach, self.reach)
        sizes = [
            ceil((extent + 2 * p - 2 * r - self.kernel + 1) / self.strides[0])
            for extent, p, r in zip(size, pads, reach, strict=True)
        ]
        if self.excess > self.pad:
            raise unsupported(
                f"single_direction -1 reads {self.excess} columns beyond the edge, in "
                f"the row before, which is no border with a pad of {self.pad}"
            )
        if min(sizes) < 1:
            raise ConversionError(
                f"max_displacement {self.reach} and kernel_size {self.kernel} do not "
                f"fit into {size}"
            )
        return ((n, len(self.shifts), *sizes),)

    def call(self, at: Site) -> str:
        radius = self.reach // self.strides[1]
        default = tuple(step * self.strides[1] for step in range(-radius, radius + 1))
        columns = tuple(dict.fromkeys(j for _, j in self.shifts))
        given = arguments(
            *at.args,
            f"rows={literal((0,) if self.flat else default)}",
            f"columns={literal(columns)}",
            pad=unless((0 if self.flat else self.pad, self.pad), (0, 0)),
            margin=unless((0 if self.flat else self.reach, self.reach), (0, 0)),
            kernel=unless(self.kernel, 1),
            stride=unless(self.strides[0], 1),
            subtract=unless(self.subtract, False),
        )
        return f"correlate({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        a, b = inputs
        (shape,) = self.infer(a.shape, b.shape)
        down = 0 if self.flat else self.pad
        ends = ((0, 0), (0, 0), (down, down), (self.pad, self.pad))
        a, b = np.pad(a, ends), np.pad(b, ends)
        b = np.pad(b, ((0, 0), (0, 0), (0, 0), (self.excess, 0)))
        top = np.empty(shape)
        margin = 0 if self.flat else self.reach
        for i, j in np.ndindex(*shape[2:]):
            y, x = i * self.strides[0] + margin, j * self.strides[0] + self.reach
            one = a[:, :, y : y + self.kernel, x : x + self.kernel]
            for c, (dy, dx) in enumerate(self.shifts):
                rows = slice(y + dy, y + dy + self.kernel)
                left = x + dx + self.excess
                other = b[:, :, rows, left : left + self.kernel]
                both = np.abs(one - other) if self.subtract else one * other
                top[:, c, i, j] = both.mean((1, 2, 3))
        return top


@layer("Correlation1D", "correlation_param")
class Correlation1D(Correlation):
    """Correlation of patches that are displaced only horizontally."""

    __slots__ = ()

    type = "Correlation1D"
    flat = True


@layer("FlowWarp", "flow_warp_param")
@dataclass(frozen=True, slots=True)
class FlowWarp(Frames):
    """The first blob at the points to which the flow in the second points,
    interpolated; 0 or NaN outside the blob."""

    bottoms = 2

    nan: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        words = ("", "ZERO", "NOT_A_NUMBER")
        return cls(params.choice("fill_value", *words, default="ZERO") != "ZERO")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, flow = inputs
        n, _, *size = images(self.type, x)
        if flow != (n, 2, *size):
            raise ConversionError(f"a flow over {x} is ({n}, 2, ...), not {flow}")
        return (x,)

    def call(self, at: Site) -> str:
        fill = 'float("nan")' if self.nan else None
        return f"flow_warp({arguments(*at.args, fill=fill)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, flow = inputs
        n, _, height, width = x.shape
        top = np.full(x.shape, np.nan if self.nan else 0.0)
        for k, i, j in np.ndindex(n, height, width):
            place = flow[k, ::-1, i, j].astype(np.float32) + np.array(
                [i, j], np.float32
            )
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            y, z = place.astype(int)
            below, right = min(y + 1, height - 1), min(z + 1, width - 1)
            b, a = place.astype(np.float64) - (y, z)
            high = (1 - a) * x[k, :, y, z] + a * x[k, :, y, right]
            low = (1 - a) * x[k, :, below, z] + a * x[k, :, below, right]
            top[k, :, i, j] = (1 - b) * high + b * low
        return top


@layer("ChannelNorm")
@dataclass(frozen=True, slots=True)
class ChannelNorm(Frames):
    """The root of the sum of squares over the channels."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, _, *size = images(self.type, inputs[0])
        return ((n, 1, *size),)

    def call(self, at: Site) -> str:
        return f"channel_norm({at.x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = np.sqrt((inputs[0] ** 2).sum(1, keepdims=True))
        return top
