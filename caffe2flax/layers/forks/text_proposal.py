"""CTPN's boxes of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.layers._python import numbers, options, python_layer

HEIGHTS = (11, 16, 23, 33, 48, 68, 97, 139, 198, 283)
ANCHORS = tuple((0, int(7.5 - h // 2), 15, int(7.5 + h // 2)) for h in HEIGHTS)
"""Boxes 16 pixels wide around a cell of 16 pixels."""


@dataclass(frozen=True, slots=True)
class TextProposal(Layer):
    """Rows (x1, y1, x2, y2) of ten anchors at each cell, each moved and stretched in
    height, and their scores."""

    bottoms = 3
    tops = (1, 2)
    in_place = False

    stride: int = 16
    with_scores: bool = True

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        scores, deltas, info = inputs
        count = len(ANCHORS)
        wanted = (1, 2 * count, *scores[2:])
        if len(scores) != 4 or scores != wanted or deltas != wanted:
            raise ConversionError(
                f"{count} anchors need scores and shifts of shape (1, {2 * count}, H, "
                f"W), not {scores} and {deltas}"
            )
        if prod(info) < 2:
            raise ConversionError(
                f"the image's height and width are 2 numbers, not a blob {info}"
            )
        rows = count * prod(scores[2:])
        tops = ((rows, 4), (rows, 1))
        return tops if self.with_scores else tops[:1]

    def layouts(self, *inputs: Operand) -> Layouts:
        last, info = Layout.channels_last(4), Layout.caffe(len(inputs[2].shape))
        tops = (Layout.caffe(2),) * (2 if self.with_scores else 1)
        return Layouts((last, last, info), tops)

    def call(self, at: Site) -> str:
        given = ", ".join((*at.args, str(self.stride), literal(ANCHORS)))
        return f"text_proposals({given})" + ("" if self.with_scores else "[0]")

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        scores, deltas, info = inputs
        _, _, height, width = scores.shape
        edge = info.ravel()[[1, 0, 1, 0]] - 1
        rows, found = [], []
        for h in range(height):
            for w in range(width):
                for a, (x1, y1, x2, y2) in enumerate(ANCHORS):
                    shift, growth = deltas[0, 2 * a : 2 * a + 2, h, w]
                    tall = y2 - y1 + 1
                    centre = shift * tall + (y1 + y2) / 2 + h * self.stride
                    top = centre - np.exp(growth) * tall / 2
                    low, high = x1 + w * self.stride, x2 + w * self.stride
                    box = np.array([low, top, high, top + np.exp(growth) * tall])
                    rows.append(np.maximum(np.minimum(box, edge), 0))
                    found.append([scores[0, len(ANCHORS) + a, h, w]])
        return (np.array(rows), np.array(found)) if self.with_scores else np.array(rows)


@python_layer("layers.text_proposal_layer", "ProposalLayer")
def _text_proposal(params: Params) -> Layer:
    (stride, *_) = numbers(params, options(params, "feat_stride"), "feat_stride")
    return TextProposal(int(stride), params.tops > 1)
