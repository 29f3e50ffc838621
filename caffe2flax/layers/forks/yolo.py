"""Detections of YOLO's second and third version."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import FindsObjects
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer

Pairs = tuple[tuple[float, float], ...]


class YoloOutput(Layer, FindsObjects):
    """Rows (0, class + 1, score, x1, y1, x2, y2) of the boxes that pass suppression.

    The fork's number of rows depends on the data. The module has the largest possible
    number; unused rows are last and -1 throughout.
    """

    __slots__ = ()

    in_place = False
    one_class = False
    counts_images = False

    classes: int
    confidence: float
    threshold: float

    @property
    def object_classes(self) -> range:
        return range(1, self.classes + 1)

    @abstractmethod
    def anchors(self, bottom: int) -> Pairs:
        """Width and height of each anchor of a bottom, in its pixels."""

    def scale(self, bottom: int) -> float:
        """Pixels of a cell of a bottom."""
        return 1.0

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        rows = 0
        for i, shape in enumerate(inputs):
            wanted = len(self.anchors(i)) * (5 + self.classes)
            if len(shape) != 4 or shape[1] != wanted:
                raise ConversionError(
                    f"{len(self.anchors(i))} anchors and {self.classes} classes need "
                    f"{wanted} channels: {shape}"
                )
            if self.one_class and shape[2] != shape[3]:
                raise ConversionError(f"a map must be square, not {shape}")
            if shape[0] != inputs[0][0]:
                raise ConversionError(f"maps of {inputs[0][0]} and {shape[0]} images")
            each = len(self.anchors(i)) * (1 if self.one_class else self.classes)
            rows += shape[0] * shape[2] * shape[3] * each
        return ((1, 1, rows, 7),)

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((Layout.channels_last(4),) * len(inputs), (Layout.caffe(4),))

    def call(self, at: Site) -> str:
        count = range(len(at.inputs))
        return "yolo_detections({})".format(
            arguments(
                *at.args,
                anchors=literal(tuple(self.anchors(i) for i in count)),
                scales=literal(tuple(self.scale(i) for i in count)),
                one_class=self.one_class,
                confidence_threshold=literal(self.confidence),
                nms_threshold=literal(self.threshold),
            )
        )

    def trim(self, top: Array) -> Array:
        rows: Array = top[:, :, top[0, 0, :, 0] >= 0]
        return rows

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        rows: list[tuple[float, ...]] = []
        for i, x in enumerate(inputs):
            rows += self._candidates(i, x)
        rows.sort(key=lambda row: -row[2])
        kept: list[tuple[float, ...]] = []
        for row in rows:
            if all(_overlap(row, other) < self.threshold for other in kept):
                kept.append(row)
        ((*_, count, width),) = self.infer(*(x.shape for x in inputs))
        top = np.full((1, 1, count, width), -1.0)
        if not kept:
            top[0, 0, : len(inputs[0]), 0] = np.arange(len(inputs[0]))
        for i, row in enumerate(kept):
            top[0, 0, i] = row
        return top

    def _candidates(self, bottom: int, x: Array) -> list[tuple[float, ...]]:
        images, _, height, width = x.shape
        scale, rows = self.scale(bottom), []
        for n, row, column in np.ndindex(images, height, width):
            cell = x[n, :, row, column].reshape(len(self.anchors(bottom)), -1)
            for (wide, high), values in zip(self.anchors(bottom), cell, strict=True):
                middle = (
                    (column + _sigmoid(values[0])) / width,
                    (row + _sigmoid(values[1])) / height,
                )
                half = (
                    np.exp(values[2]) * wide / (width * scale) / 2,
                    np.exp(values[3]) * high / (height * scale) / 2,
                )
                box = [
                    m + s * h
                    for s in (-1, 1)
                    for m, h in zip(middle, half, strict=True)
                ]
                for label, score in self._scores(values):
                    rows.append((0.0, label + 1.0, score, *box))
        return rows

    def _scores(self, values: Array) -> list[tuple[int, float]]:
        """The classes of a cell and anchor that pass, with their scores."""
        scored = _sigmoid(values[4]) * _sigmoid(values[5:])
        passing = np.flatnonzero(scored > self.confidence)
        return [(int(label), float(scored[label])) for label in passing]


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    wide = min(a[5], b[5]) - max(a[3], b[3])
    high = min(a[6], b[6]) - max(a[4], b[4])
    common = max(wide, 0) * max(high, 0)
    areas = ((r[5] - r[3]) * (r[6] - r[4]) for r in (a, b))
    return common / (sum(areas) - common)


def _sigmoid(x: Array) -> Array:
    bounded: Array = 0.5 + 0.5 * np.tanh(0.5 * x)
    return bounded


def _pairs(params: Params) -> Pairs:
    flat = params.all("biases", float)
    if not flat or len(flat) % 2:
        params.error("biases", "biases are a width and a height for each anchor")
    return tuple(zip(flat[::2], flat[1::2], strict=False))


@layer("YoloDetectionOutput", "yolo_detection_output_param")
@dataclass(frozen=True, slots=True)
class YoloDetectionOutput(YoloOutput):
    """Rows of the boxes that pass suppression; the best class of each, by softmax."""

    bottoms = (1, 2)
    one_class = True

    classes: int
    pairs: Pairs
    confidence: float = 0.01
    threshold: float = 0.45

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("side", "label_map_file")
        if params.get("coords", 4) != 4:
            params.error("coords", "a box has 4 coordinates")
        pairs, boxes = _pairs(params), params.get("num_box", 5)
        if pairs and boxes > len(pairs):
            params.error("num_box", f"{boxes} boxes, but {len(pairs)} pairs of biases")
        return cls(
            params.require("num_classes", int),
            pairs[:boxes],
            params.get("confidence_threshold", 0.01),
            params.get("nms_threshold", 0.45),
        )

    def anchors(self, bottom: int) -> Pairs:
        return self.pairs

    def _scores(self, values: Array) -> list[tuple[int, float]]:
        powers = np.exp(values[5:] - values[5:].max())
        scored = _sigmoid(values[4]) * powers / powers.sum()
        best = int(scored.argmax())
        if scored[best] < self.confidence:
            return []
        return [(best, float(scored[best]))]


@layer("Yolov3DetectionOutput", "yolov3_detection_output_param")
@dataclass(frozen=True, slots=True)
class Yolov3DetectionOutput(YoloOutput):
    """Rows of the boxes that pass suppression; each class by a sigmoid of its own."""

    bottoms = (1, None)

    classes: int
    groups: tuple[Pairs, ...]
    scales: tuple[int, ...]
    confidence: float = 0.01
    threshold: float = 0.45

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.get("gaussian_box", False):
            params.unsupported("gaussian_box", "Gaussian YOLO is not converted")
        pairs, mask = _pairs(params), params.all("mask", int)
        scales = params.all("anchors_scale", int)
        count, each = params.get("mask_group_num", 2), params.get("num_box", 3)
        if count != params.bottoms:
            text = f"mask_group_num is {count}, but there are {params.bottoms} bottoms"
            params.error("mask_group_num", text)
        if len(scales) < params.bottoms:
            params.error("anchors_scale", "give anchors_scale for each bottom")
        if any(i >= len(pairs) for i in mask):
            params.error("mask", f"mask counts {len(pairs)} pairs of biases from 0")
            mask = ()
        step = len(mask) // max(count, 1)
        starts = range(0, step * params.bottoms, max(step, 1))
        if step < each:
            params.error("mask", f"{each} boxes a cell, but {step} of mask a bottom")
        return cls(
            params.require("num_classes", int),
            tuple(tuple(pairs[i] for i in mask[s : s + each]) for s in starts),
            scales,
            params.get("confidence_threshold", 0.01),
            params.get("nms_threshold", 0.45),
        )

    def anchors(self, bottom: int) -> Pairs:
        return self.groups[bottom]

    def scale(self, bottom: int) -> float:
        return float(self.scales[bottom])


@layer("CTCGreedyDecoder", "ctc_decoder_param")
@dataclass(frozen=True, slots=True)
class CTCGreedyDecoder(Layer):
    """The best class of each step, without repetitions and blanks; then -1."""

    bottoms = 2
    tops = (1, 2)
    in_place = False

    blank: int = -1
    merges: bool = True
    scored: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        blank = params.get("blank_index", -1)
        merges = params.get("ctc_merge_repeated", True)
        return cls(blank, merges, params.tops == 2)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, goes_on = inputs
        if len(x) != 3 or goes_on[:2] != x[:2] or any(n > 1 for n in goes_on[2:]):
            raise ConversionError(
                f"needs scores (T, N, C) and indicators (T, N), not {x} and {goes_on}"
            )
        tops = ((x[1], x[0], 1, 1), (x[1], 1, 1, 1))
        return tops if self.scored else tops[:1]

    def call(self, at: Site) -> str:
        blank = self.blank if self.blank >= 0 else at.input.shape[2] - 1
        call = f"ctc_greedy({arguments(*at.args, blank, self.merges)})"
        return call if self.scored else f"{call}[0]"

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        x, goes_on = inputs
        steps, count, classes = x.shape
        blank = self.blank if self.blank >= 0 else classes - 1
        top, scores = np.full((count, steps, 1, 1), -1.0), np.zeros((count, 1, 1, 1))
        for n in range(count):
            before, written = -1, 0
            for t in range(steps):
                if t and goes_on.reshape(steps, count)[t, n] == 0:
                    break
                best = int(x[t, n].argmax())
                scores[n] -= x[t, n, best]
                if best != blank and not (self.merges and best == before):
                    top[n, written] = best
                    written += 1
                before = best
        return (top, scores) if self.scored else top
