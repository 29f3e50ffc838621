"""SSD's last layer in two, and ICNet's pyramid in one: what an embedded fork makes of
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layers._forks import four_axes
from caffe2flax.layers.detection import DetectionOutput
from caffe2flax.layers.rearrange import images
from caffe2flax.layers.resize import corners, linear
from caffe2flax.layers.window import Window, pool_output, pool_windows
from caffe2flax.layout import Layout, Operand, Shape
from caffe2flax.registry import (
    Array,
    Layer,
    Layouts,
    Site,
    arguments,
    layer,
    unless,
)


@layer("SSDDecoder", "detection_output_param")
class SSDDecoder(DetectionOutput):
    """Corners of the boxes that offsets move away from the priors; one image."""

    __slots__ = ()

    type = "SSDDecoder"
    bottoms = (2, 2)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        loc, prior = (four_axes(shape) for shape in inputs)
        count = prior[2] // 4
        if prior != (1, 2, count * 4, 1) or loc != (1, count * 4, 1, 1):
            raise ConversionError(
                "needs offsets (1, boxes * 4) and priors (1, 2, boxes * 4), not "
                f"{inputs[0]} and {inputs[1]}"
            )
        if not self.share_location:
            raise ConversionError("boxes of each class are not decoded by this layer")
        return ((1, 1, count, 4),)

    def call(self, at: Site) -> str:
        code = unless(self.code, "CORNER")
        encoded = unless(self.encoded, False)
        options = {"code_type": code, "variance_encoded_in_target": encoded}
        loc, prior = at.args
        return f"decode_priors({arguments(prior, loc, **options)})"

    def trim(self, top: Array) -> Array:
        return top

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        loc, prior = inputs
        boxes, variances = prior.reshape(2, -1, 4)
        moves = zip(boxes, variances, loc.reshape(-1, 4), strict=True)
        return np.array([self._decode(*each) for each in moves])[None, None]


@layer("SSDSort", "detection_output_param")
class SSDSort(DetectionOutput):
    """Rows (image, class, score, x1, y1, x2, y2) of the boxes, decoded already, that
    pass suppression; one image."""

    __slots__ = ()

    type = "SSDSort"
    bottoms = (2, 3)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        boxes = inputs[0]
        if len(boxes) != 4 or boxes[:2] != (1, 1) or boxes[3] != 4:
            raise ConversionError(f"needs boxes (1, 1, boxes, 4), not {boxes}")
        if not self.share_location:
            raise ConversionError("boxes of each class are not sorted by this layer")
        flat = boxes[2] * 4
        return DetectionOutput.infer(self, (1, flat), inputs[1], (1, 2, flat))

    def call(self, at: Site) -> str:
        boxes, scores = at.args[:2]
        return "sort_detections({})".format(
            arguments(
                boxes,
                scores,
                num_classes=self.num_classes,
                background_label=unless(self.background, 0),
                confidence_threshold=unless(self.confidence, None),
                nms_threshold=unless(self.threshold, 0.3),
                eta=unless(self.eta, 1.0),
                top_k=self.top_k,
                keep_top_k=self.keep_top_k,
            )
        )

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        boxes = inputs[0][0, 0][:, None]
        scores = inputs[1].reshape(len(boxes), self.num_classes)
        found = self._best(boxes, scores)
        rows = [[0, d.label, d.score, *d.box] for d in found] or [[0, *[-1] * 6]]
        return np.array(rows, np.float64)[None, None]


KERNELS = ((33, 65), (17, 33), (13, 25), (8, 15))
STRIDES = ((33, 65), (16, 32), (10, 20), (5, 10))


@layer("ICNetSubgraph")
@dataclass(frozen=True, slots=True)
class ICNetSubgraph(Layer):
    """x plus four AVE pools of it, each enlarged to its size with corners aligned."""

    in_place = False

    def _windows(self, shape: Shape) -> list[list[tuple[Window, int]]]:
        """Windows and sizes of each pool, for rows and columns."""
        return [
            [
                (Window(k, s), pool_output(n, Window(k, s), ceil=True, clip=False))
                for n, k, s in zip(shape[2:], kernels, strides, strict=True)
            ]
            for kernels, strides in zip(KERNELS, STRIDES, strict=True)
        ]

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        images(self.type, shape)
        for pool in self._windows(shape):
            for (window, size), extent in zip(pool, shape[2:], strict=True):
                if size < 1 or (size - 1) * window.stride >= extent:
                    raise ConversionError(f"a pool of {window.kernel} misses {extent}")
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((Layout.channels_last(4),), (Layout.channels_last(4),))

    def call(self, at: Site) -> str:
        return f"add_pyramid({at.x}, {KERNELS}, {STRIDES})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        top = x.copy()
        for rows, columns in self._windows(x.shape):
            pooled = np.empty((*x.shape[:2], rows[1], columns[1]))
            for i, (h0, h1, _) in enumerate(pool_windows(x.shape[2], *rows)):
                for j, (w0, w1, _) in enumerate(pool_windows(x.shape[3], *columns)):
                    pooled[:, :, i, j] = x[:, :, h0:h1, w0:w1].mean((2, 3))
            top += linear(pooled, x.shape[2:], (2, 3), corners)
        return top
