"""The last layer of TextBoxes++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import variant
from caffe2flax.layers._forks import four_axes
from caffe2flax.layers.forks._detections import Detections, count_priors

CORNERS = (0, 1, 2, 1, 2, 3, 0, 3)
"""The corners of a box as a polygon, from the upper left one on clockwise."""


@variant("DetectionOutput", lambda params: params.has("use_polygon"))
@dataclass(frozen=True, slots=True)
class PolygonOutput(Detections):
    """Rows (image, class, score, x1, y1, x2, y2, and four corners) of the boxes that
    pass suppression."""

    bottoms = 3

    @classmethod
    def parse(cls, params: Params) -> Self:
        parsed = super(PolygonOutput, cls).parse(params)
        if not params.get("use_polygon", True):
            params.unsupported(
                "use_polygon",
                "boxes of 9 numbers are not settled: no open source or data to check "
                "against",
            )
        if parsed.code != "CENTER_SIZE" or parsed.encoded or not parsed.share_location:
            params.unsupported(
                None,
                "polygons go with code_type CENTER_SIZE, share_location true and "
                "variance_encoded_in_target false; the fork leaves others undefined",
            )
        return parsed

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        loc, conf, prior = inputs
        if four_axes(loc)[1] % 12:
            raise ConversionError(f"a prior box has 12 numbers of locations, not {loc}")
        plain = (loc[0], loc[1] // 3, *loc[2:])
        count = count_priors(plain, conf, prior, self.num_classes, True)
        return ((1, 1, loc[0] * self.rows(count), 15),)

    def call(self, at: Site) -> str:
        return self.written("polygon_output", *at.args)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        loc, conf, prior = inputs
        boxes, variances = prior[0].reshape(2, -1, 4)
        rows = []
        for image in range(len(loc)):
            moves = loc[image].reshape(-1, 12)
            decoded = np.empty((len(boxes), 1, 12))
            for p, (box, variance) in enumerate(zip(boxes, variances, strict=True)):
                scale = np.tile(variance[:2] * (box[2:] - box[:2]), 4)
                decoded[p, 0, :4] = self.decode(box, variance, moves[p, :4])
                decoded[p, 0, 4:] = box[list(CORNERS)] + scale * moves[p, 4:]
            scores = conf[image].reshape(len(boxes), self.num_classes)
            found = self.best(decoded, scores)
            rows += [[image, d.label, d.score, *d.box] for d in found]
        rows = rows or [[image, *[-1] * 14] for image in range(len(loc))]
        return np.array(rows, np.float64)[None, None]
