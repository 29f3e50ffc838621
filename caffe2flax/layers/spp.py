"""SPP: an image pooled over ever smaller bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Segment, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import Window, reconcile
from caffe2flax.layers._pooled import pooled, slide
from caffe2flax.layers._pooling import avg_pool, max_pool, overhangs


@layer("SPP", "spp_param")
@dataclass(frozen=True, slots=True)
class SPP(Layer):
    """Pooled over 1 x 1, 2 x 2, 4 x 4, ... bins, all flattened into one axis."""

    in_place = False

    height: int
    method: str = "MAX"

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        height = params.require("pyramid_height", int)
        if params.has("pyramid_height") and not 1 <= height <= MAX_LEVELS:
            text = f"pyramid_height must be 1 to {MAX_LEVELS}, not {height}"
            params.error("pyramid_height", text)
        method = params.choice("pool", "MAX", "AVE", "STOCHASTIC")
        if method == "STOCHASTIC":
            params.error("pool", NO_STOCHASTIC)
        return cls(height, method)

    def levels(self, shape: Shape) -> list[tuple[tuple[Window, ...], Shape]]:
        """The windows of each level, and how many of them there are along each axis.

        Raises ConversionError.
        """
        if len(shape) != 4:
            raise ConversionError(f"pooling needs a blob of 4 axes, not {shape}")
        levels = []
        for bins in (2**level for level in range(self.height)):
            kernels = [-(-size // bins) for size in shape[2:]]
            spatial = tuple(
                Window(kernel, kernel, (kernel * bins - size + 1) // 2)
                for kernel, size in zip(kernels, shape[2:], strict=True)
            )
            levels.append((spatial, pooled(shape[2:], spatial, ceil=True)))
        return levels

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        levels = self.levels(shape)
        if self.height == 1:
            return ((*shape[:2], *levels[0][1]),)
        return ((shape[0], sum(shape[1] * prod(sizes) for _, sizes in levels)),)

    def layouts(self, *inputs: Operand) -> Layouts:
        """Channels last: each level of the top is stored in the order H, W, C."""
        (x,) = inputs
        layout = Layout.channels_last(4)
        if self.height == 1:
            return Layouts((layout,), (layout,))
        order = tuple(
            Segment((x.shape[1], *sizes), (1, 2, 0))
            for _, sizes in self.levels(x.shape)
        )
        return Layouts((layout,), (Layout.caffe(2).with_order(1, order),))

    def call(self, at: Site) -> str:
        sizes = at.input.shape[2:]
        pools = [
            (spatial, reconcile(sizes, spatial, outs), outs)
            for spatial, outs in self.levels(at.input.shape)
        ]
        if self.height == 1:
            ((spatial, padding, outs),) = pools
            if self.method == "MAX":
                return max_pool(at.x, spatial, padding)
            return avg_pool(at.x, spatial, padding, sizes, outs)
        levels = []
        for spatial, padding, outs in pools:
            kernel = tuple(w.kernel for w in spatial)
            last: tuple[object, ...] = (padding.emitted,)
            if self.method == "AVE":
                pad = tuple(w.pad for w in spatial)
                last = (pad, overhangs(sizes, spatial, outs))
            levels.append(literal((kernel, kernel, *last)))
        empty = any(padding.empty for _, padding, _ in pools)
        largest = "max_pool" if empty else "nnx.max_pool"
        pool = largest if self.method == "MAX" else "avg_pool"
        return f"spatial_pyramid({arguments(pool, at.x, *levels)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        tops = [slide(x, self.method, *level) for level in self.levels(x.shape)]
        if self.height == 1:
            return tops[0]
        return np.concatenate([top.reshape(len(x), -1) for top in tops], 1)


MAX_LEVELS = 16
"""More bins than pixels are an error anyway; this bounds the work until then."""

NO_STOCHASTIC = (
    "an SPP layer that is STOCHASTIC draws at random at test, too: give AVE or MAX"
)
"""Its poolings have no phase of their own, which Caffe reads as TRAIN."""
