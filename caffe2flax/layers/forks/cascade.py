"""Layers of Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._regression import (
    MEANS,
    SHARES,
    STDS,
    BoxesOfMaps,
    Four,
    normal,
    overlap,
    settings,
)


@layer("BoxGroupOutput", "box_group_output_param", "bbox_reg_param")
@dataclass(frozen=True, slots=True)
class BoxGroupOutput(BoxesOfMaps):
    """Rows (image, x1, y1, x2, y2) of the boxes of several pairs of maps that pass
    suppression.

    Caffe's number of rows depends on the data. The module has the largest possible
    number; unused rows repeat the last box, and are -1 in the second top.

    fields: of each pair of probabilities and boxes, widths and heights.
    """

    bottoms = (2, None)
    function = "box_group_output"

    @classmethod
    def parse(cls, params: Params) -> Self:
        groups = params.subs("box_group_param")
        fields, strides = [], []
        for group in groups:
            widths, heights = (group.all(f"field_{side}", float) for side in "wh")
            stride = group.require("stride", float)
            positive = all(value > 0 for value in (*widths, *heights, stride))
            if len(widths) != len(heights) or not widths or not positive:
                text = "give as many field_w as field_h, and a stride, all positive"
                group.error(None, text)
            fields.append(tuple(zip(widths, heights, strict=False)))
            strides.append(stride)
        if params.bottoms != 2 * len(groups):
            text = f"{len(groups)} box_group_param for {params.bottoms} bottoms: one"
            params.error(None, text + " for each pair of probabilities and boxes")
        return cls(tuple(fields), tuple(strides), **settings(params))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        counts = [len(fields) for fields in self.fields]
        images, cells = set(), 0
        for prob, box, count in zip(inputs[::2], inputs[1::2], counts, strict=True):
            fits = len(prob) == len(box) == 4 and box == (prob[0], 4, *prob[2:])
            if not fits or prob[0] % count:
                raise ConversionError(
                    f"{count} fields need probabilities (images * {count}, classes, H, "
                    f"W) and boxes (images * {count}, 4, H, W), not {prob} and {box}"
                )
            images.add((prob[0] // count, prob[1]))
            cells += prod(prob[2:]) * count
        if len(images) > 1:
            raise ConversionError("all maps must be of the same images and classes")
        return self.rows(self.images(inputs[0]), cells)

    def images(self, first: Shape) -> int:
        return first[0] // len(self.fields[0])

    def overlap(self, a: Array, b: Array) -> float:
        return overlap(a, b, self.share)

    def found(self, image: int, inputs: Sequence[Array]) -> list[tuple[float, Array]]:
        boxes = []
        for number, fields in enumerate(self.fields):
            for k, field in enumerate(fields):
                at = image * len(fields) + k
                prob, shift = inputs[2 * number][at], inputs[2 * number + 1][at]
                boxes += self._boxes(prob, shift, field, self.strides[number])
        return sorted(boxes, key=lambda item: -item[0])

    def _boxes(
        self, prob: Array, shifts: Array, field: tuple[float, float], stride: float
    ) -> list[tuple[float, Array]]:
        """Score and corners of what a map of one field predicts."""
        edge = np.array([prob.shape[2], prob.shape[1]]) * stride
        boxes = []
        for h, w in np.ndindex(prob.shape[1:]):
            score = 1 - prob[0, h, w]
            centre, size = self.moved(shifts[:, h, w], field, (w, h), stride)
            low = centre - size / 2
            high = np.minimum(low + size - 1, edge)
            low = np.maximum(low, 0)
            if score >= self.score and (high - low + 1 >= self.min_size).all():
                boxes.append((float(score), np.concatenate([low, high])))
        return boxes


@layer("FrcnnOutput", "frcnn_output_param", "bbox_reg_param")
@dataclass(frozen=True, slots=True)
class FrcnnOutput(Layer):
    """Rows (image, x1, y1, x2, y2, class, score) of the boxes that pass suppression,
    after a row of 0 and -1.

    Caffe's number of rows depends on the data. The module has the largest possible
    number; unused rows are last and -1 throughout.
    """

    bottoms = 4
    in_place = False

    score: float = 0.0
    threshold: float = 0.5
    share: str = "union"
    keep_top_k: int = 0
    each_class: bool = True
    means: Four = MEANS
    stds: Four = STDS

    @classmethod
    def parse(cls, params: Params) -> Self:
        # For output files, not for the top.
        params.ignore("save_output_param")
        assert params.parent is not None
        regression = params.parent.sub("bbox_reg_param")
        means, stds = normal(regression)
        return cls(
            params.get("conf_thr", 0.0),
            params.get("iou_thr", 0.5),
            SHARES.get(params.get("nms_type", "IOU"), "union"),
            max(params.get("max_det_num", 0), 0),
            regression.get("cls_aware", True),
            means,
            stds,
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        prob, deltas, rois, sizes = inputs
        count, classes = prob[0], prod(prob[1:])
        numbers = 4 * classes if self.each_class else 8
        rows = deltas[0] == count == rois[0]
        if not rows or prod(deltas[1:]) != numbers or prod(rois[1:]) not in (5, 6):
            raise ConversionError(
                f"{count} regions and {classes} classes need boxes ({count}, {numbers})"
                f" and regions ({count}, 5), not {deltas} and {rois}"
            )
        if prod(sizes) != 2:
            raise ConversionError(f"sizes are height and width, not a blob {sizes}")
        found = count * (classes - 1)
        rest = min(found, self.keep_top_k or found)
        return ((1 + rest, 7, 1, 1),)

    def call(self, at: Site) -> str:
        settings = arguments(
            *at.args,
            score_threshold=unless(self.score, 0.0),
            nms_threshold=unless(self.threshold, 0.5),
            share_of=unless(self.share, "union"),
            keep_top_k=unless(self.keep_top_k, 0),
            each_class=unless(self.each_class, True),
            means=unless(self.means, MEANS),
            stds=unless(self.stds, STDS),
        )
        return f"frcnn_output({settings})"

    def trim(self, top: Array) -> Array:
        found: Array = top[top.reshape(len(top), -1)[:, 0] >= 0]
        return found

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        count = len(inputs[0])
        prob, rois = inputs[0].reshape(count, -1), inputs[2].reshape(count, -1)
        deltas, edge = inputs[1].reshape(count, -1, 4), inputs[3].ravel()[::-1]
        rows: list[list[float]] = []
        for label in range(1, prob.shape[1]):
            kept: list[Array] = []
            for i in np.argsort(-prob[:, label], kind="stable"):
                box = self._moved(deltas[i, label if self.each_class else 1], rois[i])
                box = np.concatenate(
                    [np.maximum(box[:2], 0), np.minimum(box[2:], edge)]
                )
                most = self.threshold
                fits = all(overlap(other, box, self.share) <= most for other in kept)
                if prob[i, label] >= self.score and fits:
                    kept.append(box)
                    rows.append([0, *box, label, float(prob[i, label])])
        if self.keep_top_k and len(rows) > self.keep_top_k:
            best = sorted(range(len(rows)), key=lambda i: -rows[i][6])
            rows = [rows[i] for i in sorted(best[: self.keep_top_k])]
        return np.array([[0, *[-1] * 6], *rows], np.float64)[..., None, None]

    def _moved(self, delta: Array, roi: Array) -> Array:
        shift = delta * self.stds + self.means
        size = roi[3:5] - roi[1:3] + 1
        centre = (roi[1:3] + roi[3:5]) / 2 + shift[:2] * size
        size = size * np.exp(shift[2:])
        low = centre - (size - 1) / 2
        return np.concatenate([low, low + size - 1])
