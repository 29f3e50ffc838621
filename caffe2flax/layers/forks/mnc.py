"""Layers of MNC, a cascade of boxes, masks and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.coordinates import Pointwise
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import Frames, images, positive
from caffe2flax.layers._python import options, python_layer, test_alone
from caffe2flax.layers._reshape import ReshapeLayer
from caffe2flax.layers.forks._regions import Regional, between, check_regions, half_away

MASK = 21
"""Height and width of a mask, by MNC's default."""


@layer("ROIWarping", "roi_warping_param")
@dataclass(frozen=True, slots=True)
class ROIWarping(Regional):
    """Interpolated features at the first corner of each bin of each region, whose
    corners are rounded."""

    size: tuple[int, int]
    scale: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        scale = params.get("spatial_scale", 1.0)
        if not np.isfinite(scale):
            params.error("spatial_scale", f"spatial_scale cannot be {scale}")
        return cls((positive(params, "pooled_h"), positive(params, "pooled_w")), scale)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        features, rois = inputs
        check_regions(features, rois)
        return ((rois[0], features[1], *self.size),)

    def call(self, at: Site) -> str:
        scale = [literal(self.scale)] if self.scale != 1 else []
        return f"roi_warp({arguments(*at.args, literal(self.size), *scale)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, rois = inputs
        f = np.float32
        top = np.zeros((len(rois), x.shape[1], *self.size))
        for n, (image, *corners) in enumerate(rois.reshape(-1, 5).astype(f)):
            x0, y0, x1, y1 = (half_away(value * f(self.scale)) for value in corners)
            for i, j in np.ndindex(self.size):
                h = y0 + i * max(y1 - y0, 0) / self.size[0]
                w = x0 + j * max(x1 - x0, 0) / self.size[1]
                top[n, :, i, j] = between(x[int(image)], h, w)
        return top


@layer("MaskPooling", "mask_pooling_param")
@dataclass(frozen=True, slots=True)
class MaskPooling(Frames, Pointwise):
    """x times the second bottom, a mask of one channel."""

    bottoms = 2

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, mask = inputs
        if mask != (*x[:1], 1, *images("MaskPooling", x)[2:]):
            raise ConversionError(
                f"needs features (N, C, H, W) and masks (N, 1, H, W), not {x} and "
                f"{mask}"
            )
        return (x,)

    def call(self, at: Site) -> str:
        return " * ".join(at.operands)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = inputs[0] * inputs[1]
        return top


@layer("MaskResize", "mask_resize_param")
@dataclass(frozen=True, slots=True)
class MaskResize(Frames):
    """x in another size, interpolated, with the first corners of both aligned."""

    size: tuple[int, int]

    @classmethod
    def parse(cls, params: Params) -> Self:
        sides = (positive(params, f"output_{side}") for side in ("height", "width"))
        height, width = sides
        return cls((height, width))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, c, _, _ = images("MaskResize", inputs[0])
        return ((n, c, *self.size),)

    def call(self, at: Site) -> str:
        return f"resize_mask({at.x}, {literal(self.size)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        top = np.empty((*x.shape[:2], *self.size))
        steps = [n / m for n, m in zip(x.shape[2:], self.size, strict=True)]
        for n in range(len(x)):
            for i, j in np.ndindex(self.size):
                top[n, :, i, j] = between(x[n], i * steps[0], j * steps[1])
        return top


@dataclass(frozen=True, slots=True)
class MaskLayer(ReshapeLayer):
    """A mask of 21 x 21 for each region."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if prod(shape[1:]) != MASK * MASK:
            raise ConversionError(f"needs masks (R, {MASK * MASK}), not {shape}")
        return ((shape[0], 1, MASK, MASK),)


@python_layer("pylayer.mask_layer", "MaskLayer")
def _mask_layer(params: Params) -> Layer:
    test_alone(params)
    params.ignore("param_str")
    return MaskLayer()


@dataclass(frozen=True, slots=True)
class StageBridge(Layer):
    """Regions moved by the shifts of their best class, cut off at the image's
    borders."""

    bottoms = 4
    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        rois, deltas, scores, info = inputs
        if prod(rois[1:]) != 5 or len(scores) != 2:
            raise ConversionError(
                f"needs regions (R, 5) and scores (R, C), not {rois} and {scores}"
            )
        if deltas != (rois[0], 4 * scores[1]) or scores[0] != rois[0]:
            raise ConversionError(
                f"{rois[0]} regions and {scores[1]} classes need shifts "
                f"({rois[0]}, {4 * scores[1]}), not {deltas}"
            )
        if prod(info) < 2:
            raise ConversionError(
                f"the image's height and width are 2 numbers, not a blob {info}"
            )
        return ((rois[0], 5),)

    def layouts(self, *inputs: Operand) -> Layouts:
        plain = tuple(Layout.caffe(len(x.shape)) for x in inputs)
        return Layouts(plain, (Layout.caffe(2),))

    def call(self, at: Site) -> str:
        return f"bridge_regions({', '.join(at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        rois, deltas, scores, info = inputs
        edge = info.ravel()[[1, 0, 1, 0]] - 1
        rows = []
        for (_, *box), shifts, score in zip(
            rois.reshape(-1, 5), deltas, scores, strict=True
        ):
            corners, shift = np.array(box), shifts.reshape(-1, 4)[score.argmax()]
            size = corners[2:] - corners[:2] + 1
            centre = corners[:2] + size / 2 + shift[:2] * size
            half = np.exp(shift[2:]) * size / 2
            moved = np.concatenate([centre - half, centre + half])
            rows.append([0, *np.maximum(np.minimum(moved, edge), 0)])
        return np.array(rows).reshape(-1, 5)


@python_layer("pylayer.stage_bridge_layer", "StageBridgeLayer")
def _stage_bridge(params: Params) -> Layer:
    test_alone(params)
    # All of them are about training.
    options(params, "feat_stride", "use_clip", "clip_base")
    return StageBridge()
