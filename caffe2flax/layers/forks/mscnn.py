"""Layers of MS-CNN and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import ComputedByCaller
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._regression import (
    MEANS,
    SHARES,
    STDS,
    Four,
    normal,
    trimmed,
)


@layer("BoxOutput", "box_output_param", "bbox_reg_param")
@dataclass(frozen=True, slots=True)
class BoxOutput(Layer):
    """Rows (image, x1, y1, x2, y2) of the boxes of several maps that pass suppression.

    Caffe's number of rows depends on the data. The module has the largest possible
    number; unused rows repeat the last box, and are -1 in the second top.
    """

    bottoms = (1, None)
    tops = (1, 2)
    in_place = False

    fields: tuple[tuple[int, int], ...]
    """Width and height."""
    strides: tuple[int, ...]
    score: float = 0.0
    threshold: float = 0.5
    share: str = "union"
    size_ratio: float = 2.0
    shift_ratio: float = 2.0
    top_k: int = 0
    keep_top_k: int = 0
    min_size: float = 15.0
    means: Four = MEANS
    stds: Four = STDS
    with_scores: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        names = ("field_w", "field_h", "downsample_rate")
        lists = [params.all(name, int) for name in names]
        for name, values in zip(names, lists, strict=True):
            if len(values) != params.bottoms or not all(v > 0 for v in values):
                text = f"{name} needs a positive value for each of the bottoms"
                params.error(name, f"{text}, {params.bottoms}, not {values}")
        ratios = [params.get(name, 2.0) for name in ("field_whr", "field_xyr")]
        if ratios[0] < 1 or not ratios[1] > 0:
            params.error(None, f"field_whr and field_xyr cannot be {ratios}")
        top_k = max(params.get("max_nms_num", 0), 0)
        keep_top_k = max(params.get("max_post_nms_num", 0), 0)
        assert params.parent is not None
        means, stds = normal(params.parent.sub("bbox_reg_param"))
        return cls(
            tuple(zip(lists[0], lists[1], strict=False)),
            lists[2],
            params.get("fg_thr", 0.0),
            params.get("iou_thr", 0.5),
            SHARES.get(params.get("nms_type", "IOU"), "union"),
            ratios[0],
            ratios[1],
            top_k,
            keep_top_k,
            min_size=params.get("min_size", 15.0),
            means=means,
            stds=stds,
            with_scores=params.tops > 1,
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        for shape in inputs:
            same = shape[:2] == inputs[0][:2]
            if len(shape) != 4 or shape[1] < 6 or not same:
                raise ConversionError(
                    "maps are (N, classes + 4, H, W), of two classes or more, with "
                    f"N and classes the same, not {', '.join(map(str, inputs))}"
                )
        cells = sum(prod(shape[2:]) for shape in inputs)
        rows = min(self.top_k or cells, self.keep_top_k or cells, cells)
        count = rows * inputs[0][0]
        tops = ((count, 5, 1, 1), (count, 6, 1, 1))
        return tops if self.with_scores else tops[:1]

    def layouts(self, *inputs: Operand) -> Layouts:
        tops = self.infer(*(operand.shape for operand in inputs))
        wanted = (Layout.channels_last(4),) * len(inputs)
        return Layouts(wanted, (Layout.caffe(4),) * len(tops))

    def call(self, at: Site) -> str:
        settings = arguments(
            *at.args,
            fields=literal(self.fields),
            strides=literal(self.strides),
            score_threshold=unless(self.score, 0.0),
            nms_threshold=unless(self.threshold, 0.5),
            share_of=unless(self.share, "union"),
            size_ratio=unless(self.size_ratio, 2.0),
            shift_ratio=unless(self.shift_ratio, 2.0),
            top_k=unless(self.top_k, 0),
            keep_top_k=unless(self.keep_top_k, 0),
            min_size=unless(self.min_size, 15.0),
            means=unless(self.means, MEANS),
            stds=unless(self.stds, STDS),
        )
        return f"box_output({settings})" + ("" if self.with_scores else "[0]")

    def trim(self, top: Array) -> Array:
        return trimmed(top)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        rows: list[list[float]] = []
        for image in range(len(inputs[0])):
            boxes = []
            for number, x in enumerate(inputs):
                boxes += self._boxes(x[image], number)
            order = sorted(range(len(boxes)), key=lambda i: (boxes[i][0], i))[::-1]
            kept: list[Array] = []
            for i in order[: self.top_k or None]:
                box = boxes[i][1]
                if all(self._overlap(other, box) <= self.threshold for other in kept):
                    kept.append(box)
                    rows.append([image, *box, boxes[i][0]])
                if len(kept) == (self.keep_top_k or -1):
                    break
        scored = np.array(rows or [[0] * 6], np.float64)[..., None, None]
        regions = scored[:, :5] if rows else np.array([[0, 1, 1, 10, 10]], np.float64)
        regions = regions.reshape(-1, 5, 1, 1)
        return (regions, scored) if self.with_scores else regions

    def _boxes(self, x: Array, number: int) -> list[tuple[float, Array]]:
        """Score and corners of what a map (classes + 4, H, W) predicts."""
        field, stride = np.array(self.fields[number]), self.strides[number]
        edge = np.array([x.shape[2], x.shape[1]]) * stride
        limit, factor = 1 / self.shift_ratio, log(self.size_ratio)
        boxes = []
        for h in range(x.shape[1]):
            for w in range(x.shape[2]):
                score = x[1:-4, h, w].max() - x[0, h, w]
                if score < self.score:
                    continue
                shift = x[-4:, h, w] * self.stds + self.means
                cell = (np.array([w, h]) + 0.5) * stride
                centre = shift[:2].clip(-limit, limit) * field + cell
                size = field * np.exp(shift[2:].clip(-factor, factor))
                low = np.maximum(centre - size / 2, 0)
                size = np.minimum(size, edge - low)
                if (size >= self.min_size).all():
                    boxes.append((score, np.concatenate([low, low + size])))
        return boxes

    def _overlap(self, a: Array, b: Array) -> float:
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
