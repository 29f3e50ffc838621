"""Pooling and SPP: the largest or the mean value of a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Abbreviated, EndsSection, Windowed
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.coordinates import CoordinateMap, Spatial, shrinking
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Segment, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import (
    Padding,
    Window,
    caption,
    pool_output,
    pool_windows,
    reconcile,
)
from caffe2flax.layers._fields import pair, windows
from caffe2flax.layers._pooling import avg_pool, max_pool, overhangs

LOWEST = float(np.finfo(np.float32).min)
"""What Caffe starts a maximum from."""


@layer("Pooling", "pooling_param")
@dataclass(frozen=True, slots=True)
class Pooling(Layer, Spatial, Windowed, EndsSection, Abbreviated):
    """Largest value (MAX) or mean (AVE) of each window; sizes round up."""

    abbreviation = "pool"

    in_place = False
    tops = (1, 2)

    method: str = "MAX"
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    everywhere: bool = False
    ceil: bool = True
    tops_made: int = 1
    """2: the mask too."""
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
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
        if method == "STOCHASTIC":
            params.error("pool", NO_STOCHASTIC)
        if params.tops == 2 and method != "MAX":
            params.error("pool", "only MAX pooling has a second top, its mask")
        rounds_up = _rounds_up(params)
        return cls(method, kernel, stride, pad, everywhere, rounds_up, params.tops)

    def _windows(self, shape: Shape) -> tuple[Window, ...]:
        if len(shape) not in (4, 5):
            text = "pooling needs a blob of 4 axes, or of 5 in forks"
            raise ConversionError(f"{text}, not {shape}")
        if len(shape) == 5 and self.tops_made == 2:
            raise ConversionError(f"a mask needs a blob of 4 axes, not {shape}")
        if self.everywhere:
            return tuple(Window(size) for size in shape[2:])
        return windows(len(shape) - 2, self.kernel, self.stride, self.pad)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        sizes = pooled(shape[2:], self._windows(shape), ceil=self.ceil)
        return ((*shape[:2], *sizes),) * self.tops_made

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
        return Layouts((layout,), (layout,) * self.tops_made)

    def call(self, at: Site) -> str:
        if self.everywhere and self.tops_made == 1:
            if self.method == "MAX":
                return f"nnx.max_pool({at.x}, {at.operands[0]}.shape[1:-1])"
            axes = tuple(range(1, len(at.input.shape) - 1))
            return f"jnp.mean({at.x}, axis={axes}, keepdims=True)"
        spatial = self._windows(at.input.shape)
        assert self.padding is not None, "reconcile_padding has not run"
        if self.method == "MAX":
            return max_pool(at.x, spatial, self.padding, masked=self.tops_made == 2)
        sizes = at.input.shape[2:], at.output.shape[2:]
        return avg_pool(at.x, spatial, self.padding, *sizes)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        (x,) = inputs
        spatial = self._windows(x.shape)
        sizes = self.infer(x.shape)[0][2:]
        if self.tops_made == 1:
            return slide(x, self.method, spatial, sizes)
        return slide(x, "MAX", spatial, sizes), slide(x, "MASK", spatial, sizes)


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

    def _levels(self, shape: Shape) -> list[tuple[tuple[Window, ...], Shape]]:
        """The windows of each level, and how many of them there are an axis.

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
        levels = self._levels(shape)
        if self.height == 1:
            return ((*shape[:2], *levels[0][1]),)
        return ((shape[0], sum(shape[1] * prod(sizes) for _, sizes in levels)),)

    def layouts(self, *inputs: Operand) -> Layouts:
        """Channels last, which leaves each level in the order H, W, C."""
        (x,) = inputs
        layout = Layout.channels_last(4)
        if self.height == 1:
            return Layouts((layout,), (layout,))
        order = tuple(
            Segment((x.shape[1], *sizes), (1, 2, 0))
            for _, sizes in self._levels(x.shape)
        )
        return Layouts((layout,), (Layout.caffe(2).with_order(1, order),))

    def call(self, at: Site) -> str:
        sizes = at.input.shape[2:]
        found = [
            (spatial, reconcile(sizes, spatial, outs), outs)
            for spatial, outs in self._levels(at.input.shape)
        ]
        if self.height == 1:
            ((spatial, padding, outs),) = found
            if self.method == "MAX":
                return max_pool(at.x, spatial, padding)
            return avg_pool(at.x, spatial, padding, sizes, outs)
        levels = []
        for spatial, padding, outs in found:
            kernel = tuple(w.kernel for w in spatial)
            last: tuple[object, ...] = (padding.emitted,)
            if self.method == "AVE":
                pad = tuple(w.pad for w in spatial)
                last = (pad, overhangs(sizes, spatial, outs))
            levels.append(literal((kernel, kernel, *last)))
        empty = any(padding.empty for _, padding, _ in found)
        largest = "max_pool" if empty else "nnx.max_pool"
        pool = largest if self.method == "MAX" else "avg_pool"
        return f"spatial_pyramid({arguments(pool, at.x, *levels)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        tops = [slide(x, self.method, *level) for level in self._levels(x.shape)]
        if self.height == 1:
            return tops[0]
        return np.concatenate([top.reshape(len(x), -1) for top in tops], 1)


MAX_LEVELS = 16
"""Bins beyond the pixels are refused anyway; this bounds the work until then."""

NO_STOCHASTIC = (
    "STOCHASTIC pooling is not implemented in Caffe either (CPU); a net trained with "
    "it is tested with AVE or MAX"
)


def pooled(sizes: Shape, spatial: tuple[Window, ...], *, ceil: bool) -> Shape:
    """Sizes of the output. Raises ConversionError where Caffe aborts."""
    clip = any(w.pad for w in spatial)
    return tuple(
        pool_output(size, w, ceil=ceil, clip=clip)
        for size, w in zip(sizes, spatial, strict=True)
    )


def slide(x: Array, method: str, spatial: tuple[Window, ...], sizes: Shape) -> Array:
    """x (N, C, *spatial) pooled into `sizes`; MASK is where MAX found its value."""
    ranges = [list(each) for each in map(pool_windows, x.shape[2:], spatial, sizes)]
    largest = seen = np.where(x > LOWEST, x, LOWEST)
    pixels, sums = np.ones(()), x
    for axis, each in enumerate(ranges, 2):
        largest = _along(largest, each, axis, np.maximum)
        pixels = np.multiply.outer(pixels, np.array([d for *_, d in each], float))
        sums = _along(sums, each, axis, np.add) if method == "AVE" else sums
    if method == "AVE":
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums / pixels)
    return largest if method == "MAX" else _places(seen, largest, *ranges)


Ranges = Sequence[tuple[int, int, int]]


def _along(x: Array, ranges: Ranges, axis: int, method: np.ufunc) -> Array:
    """`x` with each of `ranges` of an axis as one entry."""
    start = LOWEST if method is np.maximum else 0.0
    before = (slice(None),) * axis
    taken = (x[(*before, slice(low, high))] for low, high, _ in ranges)
    return np.stack([method.reduce(t, axis, initial=start) for t in taken], axis)


def _places(seen: Array, largest: Array, rows: Ranges, columns: Ranges) -> Array:
    """The first pixel of each window that holds its `largest`, -1 where none does."""
    top = np.empty(largest.shape)
    for i, (y0, y1, _) in enumerate(rows):
        for j, (x0, x1, _) in enumerate(columns):
            pixels = np.arange(y0, y1)[:, None] * seen.shape[3] + np.arange(x0, x1)
            found = seen[:, :, y0:y1, x0:x1].reshape(*seen.shape[:2], -1)
            place = found.argmax(-1) if found.size else np.zeros(seen.shape[:2], int)
            index = pixels.ravel()[place] if found.size else place
            top[:, :, i, j] = np.where(largest[:, :, i, j] > LOWEST, index, -1)
    return top


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
