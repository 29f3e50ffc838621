"""Layers of MS-CNN and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import ComputedByCaller
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._regression import (
    MEANS,
    STDS,
    BoxesOfMaps,
    Four,
    normal,
    settings,
)


@layer("BoxOutput", "box_output_param", "bbox_reg_param")
@dataclass(frozen=True, slots=True)
class BoxOutput(BoxesOfMaps):
    """Rows (image, x1, y1, x2, y2) of the boxes of several maps that pass suppression.

    Caffe's number of rows depends on the data. The module has the largest possible
    number; unused rows repeat the last box, and are -1 in the second top.

    fields: of each map, width and height.
    """

    function = "box_output"

    @classmethod
    def parse(cls, params: Params) -> Self:
        names = ("field_w", "field_h", "downsample_rate")
        lists = [params.all(name, int) for name in names]
        for name, values in zip(names, lists, strict=True):
            if len(values) != params.bottoms or not all(v > 0 for v in values):
                text = f"{name} needs a positive value for each of the bottoms"
                params.error(name, f"{text}, {params.bottoms}, not {values}")
        fields = tuple(zip(lists[0], lists[1], strict=False))
        return cls(fields, lists[2], **settings(params))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        for shape in inputs:
            same = shape[:2] == inputs[0][:2]
            if len(shape) != 4 or shape[1] < 6 or not same:
                raise ConversionError(
                    "maps are (N, classes + 4, H, W), of two classes or more, with "
                    f"N and classes the same, not {', '.join(map(str, inputs))}"
                )
        return self.rows(inputs[0][0], sum(prod(shape[2:]) for shape in inputs))

    def images(self, first: Shape) -> int:
        return first[0]

    def found(self, image: int, inputs: Sequence[Array]) -> list[tuple[float, Array]]:
        boxes = []
        for number, x in enumerate(inputs):
            boxes += self._boxes(x[image], number)
        # Of equal scores Caffe takes the later cell first.
        return sorted(boxes, key=lambda item: item[0])[::-1]

    def _boxes(self, x: Array, number: int) -> list[tuple[float, Array]]:
        """Score and corners of what a map (classes + 4, H, W) predicts."""
        field, stride = self.fields[number], self.strides[number]
        edge = np.array([x.shape[2], x.shape[1]]) * stride
        boxes = []
        for h, w in np.ndindex(x.shape[1:]):
            score = x[1:-4, h, w].max() - x[0, h, w]
            if score < self.score:
                continue
            centre, size = self.moved(x[-4:, h, w], field, (w, h), stride)
            low = np.maximum(centre - size / 2, 0)
            size = np.minimum(size, edge - low)
            if (size >= self.min_size).all():
                boxes.append((score, np.concatenate([low, low + size])))
        return boxes

    def overlap(self, a: Array, b: Array) -> float:
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        if not (sides > 0).all():
            return 0.0
        one, other = (a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()
        common = sides.prod()
        whole = {"union": one + other - common, "smaller": min(one, other)}
        return float(common / whole.get(self.share, one))


@layer("DecodeBBox", "decode_bbox_param", "bbox_reg_param")
@dataclass(frozen=True, slots=True)
class DecodeBBox(Layer):
    """Regions (R, 5) moved by the last four of eight predictions (R, 8)."""

    bottoms = (2, 3)
    in_place = False

    means: Four = MEANS
    stds: Four = STDS

    @classmethod
    def parse(cls, params: Params) -> DecodeBBox:
        params.ignore("gt_iou_thr")
        assert params.parent is not None
        means, stds = normal(params.parent.sub("bbox_reg_param"))
        if params.phase == "TRAIN":
            return ScreenedBBox(means, stds)
        if params.bottoms > 2:
            params.unsupported(None, "a third bottom has a meaning in training alone")
        return cls(means, stds)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        deltas, rois, *_ = inputs
        if (prod(deltas[1:]), prod(rois[1:]), deltas[:1]) != (8, 5, rois[:1]):
            raise ConversionError(
                f"needs predictions (R, 8) and regions (R, 5), not {deltas} and {rois}"
            )
        return ((rois[0], 5, 1, 1),)

    def call(self, at: Site) -> str:
        moments = literal(self.means), literal(self.stds)
        return f"move_regions({arguments(*at.args, *moments)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        deltas, rois = inputs[0].reshape(-1, 8), inputs[1].reshape(-1, 5)
        rows = []
        for delta, (image, *box) in zip(deltas, rois, strict=True):
            corners = np.array(box)
            shift = delta[4:] * self.stds + self.means
            size = corners[2:] - corners[:2] + 1
            centre = (corners[:2] + corners[2:]) / 2 + shift[:2] * size
            size = size * np.exp(shift[2:])
            low = centre - (size - 1) / 2
            rows.append([image, *low, *(low + size - 1)])
        return np.array(rows)[..., None, None]


@dataclass(frozen=True, slots=True)
class ScreenedBBox(DecodeBBox, ComputedByCaller):
    """In training: the moved regions that remain after comparison with ground truth."""
