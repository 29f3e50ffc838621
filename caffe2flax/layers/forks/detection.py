"""SSD's last layer, and the two layers that replace it in one fork."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.abilities import FindsObjects
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import four_axes
from caffe2flax.layers.forks._detections import Detections


@layer("DetectionOutput", "detection_output_param")
class DetectionOutput(Detections, FindsObjects):
    """Rows (image, class, score, x1, y1, x2, y2) of the boxes that pass suppression."""

    __slots__ = ()

    @property
    def object_classes(self) -> range:
        return self.foreground


@layer("SSDDecoder", "detection_output_param")
class SSDDecoder(Detections):
    """Corners of the boxes given by offsets from the priors; one image."""

    __slots__ = ()

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
            raise unsupported("boxes of each class are not decoded by this layer")
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
        return np.array([self.decode(*each) for each in moves])[None, None]


@layer("SSDSort", "detection_output_param")
class SSDSort(Detections, FindsObjects):
    """Rows (image, class, score, x1, y1, x2, y2) of the boxes, decoded already, that
    pass suppression; one image."""

    __slots__ = ()

    @property
    def object_classes(self) -> range:
        return self.foreground

    bottoms = (2, 3)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        boxes = inputs[0]
        if len(boxes) != 4 or boxes[:2] != (1, 1) or boxes[3] != 4:
            raise ConversionError(f"needs boxes (1, 1, boxes, 4), not {boxes}")
        if not self.share_location:
            raise unsupported("boxes of each class are not sorted by this layer")
        flat = boxes[2] * 4
        return Detections.infer(self, (1, flat), inputs[1], (1, 2, flat))

    def call(self, at: Site) -> str:
        boxes, scores = at.args[:2]
        return self.written("sort_detections", boxes, scores)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        boxes = inputs[0][0, 0][:, None]
        scores = inputs[1].reshape(len(boxes), self.num_classes)
        detections = self.best(boxes, scores)
        rows = [[0, d.label, d.score, *d.box] for d in detections] or [[0, *[-1] * 6]]
        return np.array(rows, np.float64)[None, None]
