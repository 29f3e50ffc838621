"""Pooling and SPP: the largest value of a window, its mean, or a draw from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import (
    Abbreviated,
    EndsSection,
    MakesMask,
    Stochastic,
    Windowed,
)
from caffe2flax.ir.call import Call, arguments, literal
from caffe2flax.ir.coordinates import CoordinateMap, Spatial, shrinking
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Segment, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import (
    Padding,
    Window,
    caption,
    pool_windows,
    reconcile,
)
from caffe2flax.layers._fields import pair, windows
from caffe2flax.layers._pooled import draw, pooled, slide, weighted
from caffe2flax.layers._pooling import avg_pool, max_pool, overhangs


@layer("Pooling", "pooling_param")
@dataclass(frozen=True, slots=True)
class Pooling(Layer, Spatial, Windowed, MakesMask, EndsSection, Abbreviated):
    """Largest value (MAX) or mean (AVE) of each window, or a draw from it (STOCHASTIC);
    sizes round up."""

    abbreviation = "pool"

    in_place = False
    tops = (1, 2)

    method: str = "MAX"
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    everywhere: bool = False
    ceil: bool = True
    top_count: int = 1
    """How many tops it has; the second is the mask."""
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Layer:
        params.ignore("engine")
        everywhere = params.get("global_pooling", False)
        kernel = pair(params, "kernel_size", "kernel")
        stride = pair(params, "stride", "stride")
        pad = pair(params, "pad", "pad")
        method = params.choice("pool", "MAX", "AVE", "STOCHASTIC")
        if everywhere and kernel:
            params.error(
                "global_pooling", "global_pooling and a kernel exclude each other"
            )
        elif everywhere and (any(pad) or any(s != 1 for s in stride)):
            params.error("global_pooling", "global_pooling takes no pad and no stride")
        elif not everywhere and not kernel:
            params.missing("kernel_size", "kernel_size is missing")
        if params.tops == 2 and method != "MAX":
            params.error("pool", "only MAX pooling has a second top, its mask")
        if method == "STOCHASTIC" and any(pad):
            params.error("pool", "STOCHASTIC pooling takes no pad")
        rounds_up = _rounds_up(params)
        given = (method, kernel, stride, pad, everywhere, rounds_up, params.tops)
        if method == "STOCHASTIC":
            return StochasticPooling(*given, training=params.phase == "TRAIN")
        return cls(*given)

    def _windows(self, shape: Shape) -> tuple[Window, ...]:
        if len(shape) not in (4, 5):
            text = "pooling needs a blob of 4 axes, or of 5 in forks"
            raise ConversionError(f"{text}, not {shape}")
        if len(shape) == 5 and self.top_count == 2:
            raise ConversionError(f"a mask needs a blob of 4 axes, not {shape}")
        if self.everywhere:
            return tuple(Window(size) for size in shape[2:])
        return windows(len(shape) - 2, self.kernel, self.stride, self.pad)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        sizes = pooled(shape[2:], self._windows(shape), ceil=self.ceil)
        return ((*shape[:2], *sizes),) * self.top_count

    def masked(self, shape: Shape) -> tuple[tuple[int, int], int] | None:
        if self.top_count < 2:
            return None
        height, width = shape[2:]
        outs = self.infer(shape)[0][2:]
        windows = map(pool_windows, shape[2:], self._windows(shape), outs)
        row, column = (max(end for _, end, _ in each) - 1 for each in windows)
        return (height, width), row * width + column

    def coordinate_map(self) -> CoordinateMap | None:
        flat = max(map(len, (self.kernel, self.stride, self.pad))) < 3
        if self.everywhere or not flat:
            return None
        return shrinking(self._windows((1,) * 4))

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        return reconcile(shape[2:], self._windows(shape), outputs[2:])

    def caption(self, *inputs: Shape) -> str:
        if self.everywhere:
            return f"{self.method} of all"
        return f"{self.method} {caption(self._windows(inputs[0]))}"

    def with_padding(self, padding: Padding) -> Pooling:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(len(inputs[0].shape))
        return Layouts((layout,), (layout,) * self.top_count)

    def call(self, at: Site) -> str:
        if self.everywhere and self.top_count == 1:
            if self.method == "MAX":
                return f"nnx.max_pool({at.x}, {at.operands[0]}.shape[1:-1])"
            axes = tuple(range(1, len(at.input.shape) - 1))
            return f"jnp.mean({at.x}, axis={axes}, keepdims=True)"
        spatial = self._windows(at.input.shape)
        assert self.padding is not None, "reconcile_padding has not run"
        if self.method == "MAX":
            return max_pool(at.x, spatial, self.padding, masked=self.top_count == 2)
        sizes = at.input.shape[2:], at.output.shape[2:]
        return avg_pool(at.x, spatial, self.padding, *sizes)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        (x,) = inputs
        spatial = self._windows(x.shape)
        sizes = self.infer(x.shape)[0][2:]
        if self.top_count == 1:
            return slide(x, self.method, spatial, sizes)
        return slide(x, "MAX", spatial, sizes), slide(x, "MASK", spatial, sizes)


@dataclass(frozen=True, slots=True)
class StochasticPooling(Pooling, Stochastic):
    """Sum of squares of each window / its sum; in training one of its values, drawn
    with itself as weight."""

    type = "Pooling"

    training: bool = False

    def draws(self, phase: str) -> bool:
        return phase == "TRAIN"

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 4:
            text = f"STOCHASTIC pooling needs a blob of 4 axes, not {inputs[0]}"
            raise ConversionError(text)
        return super(StochasticPooling, self).infer(*inputs)

    def build(self, at: Site) -> Call:
        if self.everywhere:
            return Call.of("StochasticPool")
        assert self.padding is not None, "reconcile_padding has not run"
        spatial = self._windows(at.input.shape)
        return Call.of(
            "StochasticPool",
            tuple(w.kernel for w in spatial),
            tuple(w.stride for w in spatial),
            overhang=overhangs(at.input.shape[2:], spatial, at.output.shape[2:]),
        )

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """Weights are not negative."""
        return np.abs(noise.standard_normal(inputs[0]))

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x}, rngs=rngs)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        window = (x, self._windows(x.shape), self.infer(x.shape)[0][2:])
        return draw(*window) if self.training else weighted(*window)


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


def _rounds_up(params: Params) -> bool:
    """`round_mode` of Caffe 1.0, or `ceil_mode` or `torch_pooling` of its forks."""
    rounded = params.choice("round_mode", "CEIL", "FLOOR") == "CEIL"
    if params.get("torch_pooling", False):
        params.note(f"{params.span('torch_pooling')}: torch_pooling: sizes round down")
        rounded = False
    ceil = params.optional("ceil_mode", bool)
    if ceil is None:
        return rounded
    if params.has("round_mode") and ceil != rounded:
        params.error("ceil_mode", "ceil_mode contradicts round_mode")
    return ceil
