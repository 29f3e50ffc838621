"""Layers of real-time pose estimation: peaks of body parts on maps.

The fork that has these layers computes them on a GPU; its code for the CPU differs and
is unfinished. These layers compute the same as on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.abilities import FindsPeaks
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import images


@layer("ImResize", "imresize_param")
@dataclass(frozen=True, slots=True)
class ImResize(Layer):
    """The mean of images of several scales, each enlarged by cubic interpolation.

    Image n is cut off by extent // 2 * (1 - start_scale + n * scale_gap) on each side.
    """

    in_place = False

    size: tuple[int, int]
    factor: float
    start: float
    gap: float

    @classmethod
    def parse(cls, params: Params) -> Self:
        names = ("target_spatial_height", "target_spatial_width")
        rows, columns = (params.get(name, 368) for name in names)
        factor = params.get("factor", 0.0)
        if factor < 0 or not np.isfinite(factor):
            params.error("factor", f"factor cannot be {factor}")
        start, gap = params.get("start_scale", 1.0), params.get("scale_gap", 0.1)
        for name, value in (("start_scale", start), ("scale_gap", gap)):
            if not np.isfinite(value):
                params.error(name, f"{name} cannot be {value}")
        return cls((rows, columns), factor, start, gap)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, c, height, width = images(self.type, inputs[0])
        rows, columns = self.size
        if self.factor:
            factor = np.float32(self.factor)
            rows, columns = int(height * factor), int(width * factor)
        if min(rows, columns) < 1:
            raise ConversionError(f"the top would have {rows} x {columns} pixels")
        for image in range(n):
            self._cut(image, height, width)
        return ((1, c, rows, columns),)

    def _cut(self, image: int, *extents: int) -> tuple[int, ...]:
        """The number of pixels cut off at both ends of each axis of an image. Raises
        ConversionError."""
        share = 1 - self.start + image * self.gap
        cuts = tuple(floor(extent // 2 * share) for extent in extents)
        if any(not 0 <= 2 * c < e for c, e in zip(cuts, extents, strict=True)):
            raise ConversionError(
                f"start_scale {self.start} and scale_gap {self.gap} cut off {cuts} "
                f"pixels of {extents}"
            )
        return cuts

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((Layout.channels_last(4),), (Layout.channels_last(4),))

    def call(self, at: Site) -> str:
        size = literal(tuple(at.output.shape[2:]))
        n, _, *extents = at.input.shape
        cuts = tuple(self._cut(i, *extents) for i in range(n))
        given = unless(cuts if any(map(any, cuts)) else None, None)
        return f"resize_cubic({arguments(at.x, size, cuts=given)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        ((_, _, rows, columns),) = self.infer(x.shape)
        scales = []
        for n, image in enumerate(x):
            down, across = self._cut(n, *x.shape[2:])
            cropped = image[:, down : x.shape[2] - down, across : x.shape[3] - across]
            scales.append(_cubic(_cubic(cropped, rows, 1), columns, 2))
        top: Array = np.mean(scales, 0)[None]
        return top


def _cubic(x: Array, size: int, axis: int) -> Array:
    """x enlarged along an axis."""
    x = np.moveaxis(x, axis, 0)
    n = len(x)
    top = []
    for i in range(size):
        place = (i + 0.5) * n / size - 0.5
        low = max(int(place + 1e-5), 0)
        t = place - low
        at = np.clip([low - 1, low, low + 1, low + 2], 0, n - 1)
        a, b, c, d = x[at]
        top.append(
            (-0.5 * a + 1.5 * b - 1.5 * c + 0.5 * d) * t**3
            + (a - 2.5 * b + 2 * c - 0.5 * d) * t**2
            + (-0.5 * a + 0.5 * c) * t
            + b
        )
    return np.moveaxis(np.array(top), 0, axis)


@layer("Nms", "nms_param")
@dataclass(frozen=True, slots=True)
class Nms(Layer, FindsPeaks):
    """Peaks of each of the first num_parts maps: their number, then rows (x, y, value).

    A peak exceeds the threshold and its 8 neighbours; x and y are the mean position of
    the 7 x 7 pixels around it, weighted by their positive values. Unused rows are 0.
    """

    in_place = False

    threshold: float
    peaks: int
    parts: int

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("num_peak")
        peaks, parts = params.get("max_peaks", 20), params.get("num_parts", 15)
        for name, value in (("max_peaks", peaks), ("num_parts", parts)):
            if value < 1:
                params.error(name, f"{name} must be positive, not {value}")
        return cls(params.get("threshold", 0.5), peaks, parts)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, c, height, width = images(self.type, inputs[0])
        if n != 1:
            raise ConversionError(f"this layer takes one image, not {n}")
        if c < self.parts:
            raise ConversionError(f"num_parts {self.parts} exceeds {c} maps")
        if height > width:
            raise unsupported(
                f"maps of {height} x {width}: the layer takes the width for the "
                "height and reads wrong pixels where they are higher than wide"
            )
        return ((1, self.parts, self.peaks + 1, 3),)

    def call(self, at: Site) -> str:
        threshold = literal(self.threshold)
        return f"find_peaks({at.x}, {self.parts}, {self.peaks}, {threshold})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        _, _, height, width = x.shape
        # In the fork, the pixels after the last row are those of the next map.
        flat = x.ravel()
        top = np.zeros((1, self.parts, self.peaks + 1, 3))
        for c in range(self.parts):
            count = 0
            for i, j in np.ndindex(height - 2, width - 2):
                block = x[0, c, i : i + 3, j : j + 3]
                value = block[1, 1]
                others = np.delete(block.ravel(), 4)
                if not value > np.float32(self.threshold) or not (value > others).all():
                    continue
                count += 1
                if count > self.peaks:
                    continue
                sums = np.zeros(3)
                for y in range(i - 2, i + 5):
                    for z in range(j - 2, j + 5):
                        at = (c * height + y) * width + z
                        if 0 < y < width and 0 < z < width and at < len(flat):
                            sums += max(flat[at], 0) * np.array([z, y, 1])
                top[0, c, count] = sums[0] / sums[2], sums[1] / sums[2], value
            top[0, c, 0, 0] = count
        return top
