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
from caffe2flax.layers._fields import Sliding, blob_shape, older_or_own
from caffe2flax.layers._pooling import avg_pool, max_pool

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class PoolingOfAxes(Layer, Windowed, EndsSection):
    """Pooling along all axes after `sliding.axis`, as forks have it."""

    in_place = False

    method: str
    sliding: Sliding
    dropped: str = ""
    """Where a last window beyond image and first pad is left out: "" nowhere, "own" on
    axes with a pad, "any" on all axes if one has a pad."""
    whole: bool = False
    """Whether one window covers all."""
    padding: Padding | None = None

    def spatial(self, shape: Shape) -> tuple[Window, ...]:
        """The window of each spatial axis. Raises ConversionError."""
        first = self.sliding.channel_axis(shape) + 1
        if self.whole:
            return tuple(Window(extent) for extent in shape[first:])
        return self.sliding.windows(shape)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        spatial = self.spatial(shape)
        first = len(shape) - len(spatial)
        padded = any(w.pad for w in spatial)
        clips = {"own": [w.pad > 0 for w in spatial], "any": [padded] * len(spatial)}
        sizes = [
            pool_output(size, w, ceil=True, clip=clip)
            for size, w, clip in zip(
                shape[first:],
                spatial,
                clips.get(self.dropped, [False] * len(spatial)),
                strict=True,
            )
        ]
        return ((*shape[:first], *sizes),)

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        spatial = self.spatial(shape)
        first = len(shape) - len(spatial)
        return reconcile(shape[first:], spatial, outputs[first:])

    def with_padding(self, padding: Padding) -> PoolingOfAxes:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        shape = inputs[0].shape
        layout = Layout.channels_last(len(shape), self.sliding.channel_axis(shape))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        assert self.padding is not None, "reconcile_padding has not run"
        spatial = self.spatial(at.input.shape)
        if self.method == "MAX":
            return max_pool(at.x, spatial, self.padding)
        first = len(at.input.shape) - len(spatial)
        sizes = at.input.shape[first:], at.output.shape[first:]
        return avg_pool(at.x, spatial, self.padding, *sizes)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        spatial = self.spatial(x.shape)
        first = x.ndim - len(spatial)
        divisor = np.ones((1,) * len(spatial))
        for axis, (w, out) in enumerate(zip(spatial, shape[first:], strict=True)):
            ranges = list(pool_windows(x.shape[axis + first], w, out))
            before = (slice(None),) * (axis + first)
            parts = [x[(*before, slice(low, high))] for low, high, _ in ranges]
            if self.method == "MAX":
                parts = [p.max(axis + first, initial=LOWEST) for p in parts]
            else:
                parts = [p.sum(axis + first) for p in parts]
            x = np.stack(parts, axis + first)
            extents = np.array([extent for *_, extent in ranges])
            divisor = divisor * np.moveaxis(
                extents.reshape(-1, *(1,) * (len(spatial) - 1)), 0, axis
            )
        return x if self.method == "MAX" else x / divisor


@layer("POOLING3D", "pooling_param")
@layer("Pooling3D", "pooling3d_param", "pooling_param")
@dataclass(frozen=True, slots=True)
class Pooling3D(PoolingOfAxes):
    """Largest value (MAX) or mean (AVE) of each window of frames; sizes round up."""

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
        size, depth = max(size, 1), max(depth, 1)
        sliding = Sliding((depth, size, size), (between, stride, stride), (0, pad, pad))
        return cls(method, sliding)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 5:
            raise ConversionError(f"frames need a blob of 5 axes, not {inputs[0]}")
        return super(Pooling3D, self).infer(*inputs)


@layer("NdPooling", "pooling_param")
@dataclass(frozen=True, slots=True)
class NdPooling(PoolingOfAxes):
    """Largest value (MAX) of each window of frames; sizes round up."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        method = params.choice("pool", "MAX", "AVE", "STOCHASTIC")
        if method != "MAX":
            text = "not settled: no open source or data to check against"
            params.unsupported("pool", text)
        if not params.has("kernel_shape"):
            params.missing("kernel_shape")
        kernel, stride, pad = (
            blob_shape(params.sub(f"{name}_shape"))
            for name in ("kernel", "stride", "pad")
        )
        return cls(method, Sliding(kernel, stride, pad), "own")


@layer("PoolingND", "pooling_nd_param")
@dataclass(frozen=True, slots=True)
class PoolingND(PoolingOfAxes):
    """Largest value (MAX) or mean (AVE) of each window along all axes from `axis` on;
    sizes round up."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        method = params.choice("pool", "MAX", "AVE", "STOCHASTIC")
        if method == "STOCHASTIC":
            params.unsupported("pool", "STOCHASTIC is not converted along many axes")
        whole = params.get("global_pooling", False)
        sliding = Sliding.parse(params)
        if whole and (sliding.kernel or any(sliding.pad)):
            params.error("global_pooling", "give global_pooling, or kernel and pad")
        elif not whole and not sliding.kernel:
            params.missing("kernel_size")
        return cls(method, sliding, "any", whole)
