"""Features of regions of interest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._regions import Regional, between, check_regions, half_away


@dataclass(frozen=True, slots=True)
class Binned(Regional):
    """Regions cut into pooled_h x pooled_w bins."""

    size: tuple[int, int]
    scale: float = 1.0
    pad_ratio: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        size = params.get("pooled_h", 0), params.get("pooled_w", 0)
        for name, extent in zip(("pooled_h", "pooled_w"), size, strict=True):
            if extent < 1:
                params.error(name, f"{name} must be positive, not {extent}")
        scale, pad = params.get("spatial_scale", 1.0), params.get("pad_ratio", 0.0)
        for name, value in (("spatial_scale", scale), ("pad_ratio", pad)):
            if not np.isfinite(value):
                params.error(name, f"{name} cannot be {value}")
        return cls(size, scale, pad)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        features, rois = inputs
        check_regions(features, rois)
        return ((rois[0], features[1], *self.size),)

    def _arguments(self, at: Site) -> str:
        return arguments(
            *at.args,
            literal(self.size),
            *([literal(self.scale)] if self.scale != 1 else []),
            pad_ratio=unless(self.pad_ratio, 0.0),
        )

    def _regions(self, rois: Array) -> Iterator[tuple[int, Array]]:
        """Image and scaled corners of each region, in Caffe's float32."""
        f = np.float32
        for image, *region in rois.reshape(-1, 5).astype(f):
            corners = np.array(region)
            pad = (corners[2:] - corners[:2] + 1) * f(self.pad_ratio)
            padded = np.concatenate([corners[:2] - pad, corners[2:] + pad])
            yield int(image), padded * f(self.scale)


@layer("ROIPooling", "roi_pooling_param")
class ROIPooling(Binned):
    """The largest feature in each bin of each region; bins overlap by rounding."""

    __slots__ = ()

    def call(self, at: Site) -> str:
        return f"roi_max_pool({self._arguments(at)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, rois = inputs
        height, width = x.shape[2:]
        top = np.zeros((len(rois), x.shape[1], *self.size))
        for n, (image, corners) in enumerate(self._regions(rois)):
            x0, y0, x1, y1 = (half_away(value) for value in corners)
            rows = _bins(y0, np.float32(max(y1 - y0 + 1, 1)), self.size[0], height)
            columns = _bins(x0, np.float32(max(x1 - x0 + 1, 1)), self.size[1], width)
            for i, (h0, h1) in enumerate(rows):
                for j, (w0, w1) in enumerate(columns):
                    window = x[image, :, h0:h1, w0:w1]
                    if window.size:
                        top[n, :, i, j] = window.max((1, 2))
        return top


def _bins(
    start: int, extent: np.float32, bins: int, length: int
) -> list[tuple[int, int]]:
    step = extent / np.float32(bins)
    edges = [np.float32(i) * step for i in range(bins + 1)]
    return [
        (
            min(max(int(np.floor(low)) + start, 0), length),
            min(max(int(np.ceil(high)) + start, 0), length),
        )
        for low, high in pairwise(edges)
    ]


@layer("ROIAlign", "roi_pooling_param")
class ROIAlign(Binned):
    """Interpolated features at the corners of the bins of each region."""

    __slots__ = ()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        features, rois = inputs
        check_regions(features, rois)
        height, width = self.size
        return ((rois[0], features[1], height + 1, width + 1),)

    def call(self, at: Site) -> str:
        return f"roi_align({self._arguments(at)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, rois = inputs
        rows, columns = self.size
        top = np.zeros((len(rois), x.shape[1], rows + 1, columns + 1))
        for n, (image, corners) in enumerate(self._regions(rois)):
            x0, y0, x1, y1 = corners - np.float32(0.5)
            if x1 <= x0 or y1 <= y0:
                continue
            for i in range(rows + 1):
                for j in range(columns + 1):
                    h, w = y0 + i * (y1 - y0) / rows, x0 + j * (x1 - x0) / columns
                    top[n, :, i, j] = between(x[image], float(h), float(w))
        return top


@layer("PSROIPooling", "psroi_pooling_param")
@dataclass(frozen=True, slots=True)
class PSROIPooling(Regional):
    """Means over group_size^2 bins of each region; each bin has its own channels."""

    outputs: int
    groups: int
    scale: float

    @classmethod
    def parse(cls, params: Params) -> Self:
        outputs, groups = (
            params.require(name, int) for name in ("output_dim", "group_size")
        )
        for name, value in (("output_dim", outputs), ("group_size", groups)):
            if value < 1 and params.has(name):
                params.error(name, f"{name} must be positive, not {value}")
        scale = params.require("spatial_scale", float)
        if not np.isfinite(scale):
            params.error("spatial_scale", f"spatial_scale cannot be {scale}")
        return cls(outputs, groups, scale)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        features, rois = inputs
        check_regions(features, rois)
        wanted = self.outputs * self.groups**2
        if features[1] != wanted:
            raise ConversionError(
                f"output_dim {self.outputs} and group_size {self.groups} need "
                f"{wanted} channels, not {features[1]}"
            )
        return ((rois[0], self.outputs, self.groups, self.groups),)

    def call(self, at: Site) -> str:
        return f"roi_group_mean({arguments(*at.args, self.groups, self.scale)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, rois = inputs
        f, size = np.float32, self.groups
        top = np.zeros((len(rois), self.outputs, size, size))
        for n, row in enumerate(rois.reshape(-1, 5).astype(f)):
            x0, y0 = (f(half_away(value)) * f(self.scale) for value in row[1:3])
            x1, y1 = (f(half_away(value) + 1) * f(self.scale) for value in row[3:])
            rows = self._edges(y0, y1, x.shape[2])
            columns = self._edges(x0, x1, x.shape[3])
            for i, (h0, h1) in enumerate(rows):
                for j, (w0, w1) in enumerate(columns):
                    own = x[int(row[0]), i * size + j :: size**2, h0:h1, w0:w1]
                    if own.size:
                        top[n, :, i, j] = own.mean((1, 2))
        return top

    def _edges(
        self, start: np.float32, end: np.float32, length: int
    ) -> list[tuple[int, int]]:
        step = max(end - start, np.float32(0.1)) / np.float32(self.groups)
        edges = [np.float32(i) * step + start for i in range(self.groups + 1)]
        return [
            (
                int(np.clip(np.floor(low), 0, length)),
                int(np.clip(np.ceil(high), 0, length)),
            )
            for low, high in pairwise(edges)
        ]
