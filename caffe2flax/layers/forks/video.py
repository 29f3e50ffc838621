"""Pooling of frames: blobs (N, C, L, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import EndsSection, Windowed
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import Padding, Window, pool_output, pool_windows, reconcile
from caffe2flax.layers._fields import older_or_own
from caffe2flax.layers._pooling import avg_pool, max_pool

LOWEST = float(np.finfo(np.float32).min)


@layer("POOLING3D", "pooling_param")
@layer("Pooling3D", "pooling3d_param", "pooling_param")
@dataclass(frozen=True, slots=True)
class Pooling3D(Layer, Windowed, EndsSection):
    """Largest value (MAX) or mean (AVE) of each window of frames; sizes round up."""

    in_place = False

    method: str
    spatial: tuple[Window, ...]
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        given = older_or_own(params, "pooling_param")
        method = given.choice("pool", "MAX", "AVE", "STOCHASTIC")
        size, depth = (given.require(f"kernel_{n}", int) for n in ("size", "depth"))
        stride, between = given.get("stride", 1), given.get("temporal_stride", 1)
        pad = given.get("pad", 0)
        if method == "STOCHASTIC":
            given.error("pool", "the fork that has this type implements MAX and AVE")
        if pad and method != "AVE":
            given.error("pad", "only AVE pooling of frames takes a pad")
        frames = Window(max(depth, 1), between)
        return cls(method, (frames, *(Window(max(size, 1), stride, pad),) * 2))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if len(shape) != 5:
            raise ConversionError(f"frames need a blob of 5 axes, not {shape}")
        pairs = zip(shape[2:], self.spatial, strict=True)
        sizes = (pool_output(size, w, ceil=True, clip=False) for size, w in pairs)
        return ((*shape[:2], *sizes),)

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        return reconcile(shape[2:], self.spatial, outputs[2:])

    def with_padding(self, padding: Padding) -> Pooling3D:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(5)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        assert self.padding is not None, "reconcile_padding has not run"
        if self.method == "MAX":
            return max_pool(at.x, self.spatial, self.padding)
        sizes = at.input.shape[2:], at.output.shape[2:]
        return avg_pool(at.x, self.spatial, self.padding, *sizes)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        divisor = np.ones((1, 1, 1))
        for axis, (w, out) in enumerate(zip(self.spatial, shape[2:], strict=True)):
            ranges = list(pool_windows(x.shape[axis + 2], w, out))
            before = (slice(None),) * (axis + 2)
            parts = [x[(*before, slice(low, high))] for low, high, _ in ranges]
            if self.method == "MAX":
                parts = [p.max(axis + 2, initial=LOWEST) for p in parts]
            else:
                parts = [p.sum(axis + 2) for p in parts]
            x = np.stack(parts, axis + 2)
            extents = np.array([extent for *_, extent in ranges])
            divisor = divisor * np.moveaxis(extents[:, None, None], 0, axis)
        return x if self.method == "MAX" else x / divisor
