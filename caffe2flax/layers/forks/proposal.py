"""Regions of interest from the predictions of a region proposal network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import ProposesRegions
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._python import Words, numbers, options, python_layer, test_alone

Anchor = tuple[float, float, float, float]


@layer("Proposal", "proposal_param")
@dataclass(frozen=True, slots=True)
class Proposal(Layer, ProposesRegions):
    """Rows (image, x1, y1, x2, y2) of the regions that pass suppression, best first.

    Caffe's number of rows depends on the data. The module has the largest possible
    number; unused rows repeat the last region, with score -1.
    """

    bottoms = 3
    tops = (1, 2)
    in_place = False

    anchors: tuple[Anchor, ...]
    stride: int = 16
    pre: int = 6000
    post: int = 300
    threshold: float | None = 0.7
    """None where nothing is suppressed."""
    min_size: float = 16
    python: bool = False
    """py-faster-rcnn's layer: one image, small regions dropped, scores (R, 1)."""
    with_scores: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        ratios, scales = params.all("ratio", float), params.all("scale", float)
        base = params.get("base_size", 16)
        if not ratios or not scales or not all(v > 0 for v in (*ratios, *scales, base)):
            params.error(None, "Proposal needs ratio, scale and base_size, positive")
            ratios = scales = ()
        sizes = {}
        for name, default in (("feat_stride", 16), ("min_size", 16)):
            sizes[name] = params.get(name, default)
        for name, default in (("pre_nms_topn", 6000), ("post_nms_topn", 300)):
            sizes[name] = params.get(name, default)
            if sizes[name] < 1:
                params.error(name, f"{name} must be positive, not {sizes[name]}")
        return cls(
            _anchors(base, ratios, scales, _half_up),
            sizes["feat_stride"],
            sizes["pre_nms_topn"],
            sizes["post_nms_topn"],
            params.get("nms_thresh", 0.7),
            sizes["min_size"],
            with_scores=params.tops > 1,
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        scores, deltas, info = inputs
        count = len(self.anchors)
        wanted = (scores[:1], scores[2:])
        fits = len(scores) == 4 and (deltas[:1], deltas[2:]) == wanted
        if not fits or (scores[1], deltas[1]) != (2 * count, 4 * count):
            raise ConversionError(
                f"{count} anchors need scores (N, {2 * count}, H, W) and shifts "
                f"(N, {4 * count}, H, W), not {scores} and {deltas}"
            )
        if prod(info) < 3:
            what = "height, width and scale" if self.python else "height, width, scales"
            raise ConversionError(
                f"the image's {what} are 3 numbers or more, not a blob {info}; "
                "--input-shape gives an input another shape"
            )
        if self.python and scores[0] != 1:
            raise ConversionError(f"this layer takes one image, not {scores[0]}")
        cells = prod(scores[2:]) * count
        rows = scores[0] * min(self.post or cells, self.pre or cells, cells)
        second = (rows, 1) if self.python else (rows,)
        return ((rows, 5), second) if self.with_scores else ((rows, 5),)

    def layouts(self, *inputs: Operand) -> Layouts:
        last, info = Layout.channels_last(4), Layout.caffe(len(inputs[2].shape))
        tops = self.infer(*(operand.shape for operand in inputs))
        return Layouts((last, last, info), tuple(Layout.caffe(len(t)) for t in tops))

    def call(self, at: Site) -> str:
        threshold = unless(self.threshold, 0.7)
        settings = arguments(
            *at.args,
            anchors=literal(self.anchors),
            stride=self.stride,
            top_k=self.pre,
            keep_top_k=self.post,
            threshold="None" if self.threshold is None else threshold,
            min_size=unless(self.min_size, 16),
            keep_small=unless(not self.python, False),
            column=unless(self.python and self.with_scores, False),
        )
        return f"propose_regions({settings})" + ("" if self.with_scores else "[0]")

    def trim(self, top: Array) -> Array:
        if top.shape[1:] != (5,):
            return top[top.reshape(-1) >= 0]
        new = np.any(top[1:] != top[:-1], 1)
        return top[: np.max(np.nonzero(new)[0], initial=-1) + 2]

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        scores, deltas, info = inputs
        images, _, height, width = scores.shape
        rows, kept_scores = [], []
        for n in range(images):
            boxes = []
            for h in range(height):
                for w in range(width):
                    for a, anchor in enumerate(self.anchors):
                        delta = deltas[n, 4 * a : 4 * a + 4, h, w]
                        box, large = self._moved(anchor, h, w, delta, info.ravel())
                        score = scores[n, len(self.anchors) + a, h, w]
                        if large or not self.python:
                            boxes.append((score if large else 0.0, box))
            boxes.sort(key=lambda item: -item[0])
            for score, box in self._suppress(boxes[: self.pre or None]):
                rows.append([n, *box])
                kept_scores.append(score)
        regions = np.array(rows, np.float64).reshape(-1, 5)
        if not self.with_scores:
            return regions
        column = np.array(kept_scores)
        return regions, column[:, None] if self.python else column

    def _moved(
        self, anchor: Anchor, h: int, w: int, delta: Array, info: Array
    ) -> tuple[Array, bool]:
        """A moved box, clipped to the image, and whether it is large enough."""
        box = np.array(anchor) + self.stride * np.array([w, h, w, h])
        size = box[2:] - box[:2] + 1
        centre = box[:2] + size / 2 + delta[:2] * size
        half = np.exp(delta[2:]) * size / 2
        corners = np.concatenate([centre - half, centre + half])
        edge = info[[1, 0, 1, 0]] - 1
        corners = np.maximum(np.minimum(corners, edge), 0)
        scales = info[[2, 2]] if self.python or len(info) < 4 else info[[3, 2]]
        sides = corners[2:] - corners[:2] + 1
        return corners, bool((sides >= self.min_size * scales).all())

    def _suppress(self, boxes: list[tuple[float, Array]]) -> list[tuple[float, Array]]:
        kept: list[tuple[float, Array]] = []
        for score, box in boxes:
            most = np.inf if self.threshold is None else self.threshold
            if all(_overlap(box, other) <= most for _, other in kept):
                kept.append((score, box))
            if len(kept) == (self.post or -1):
                break
        return kept


def _overlap(a: Array, b: Array) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1, 0)
    areas = (a[2:] - a[:2] + 1).prod() + (b[2:] - b[:2] + 1).prod()
    return float(sides.prod() / (areas - sides.prod()))


def _anchors(
    base: int,
    ratios: Sequence[float],
    scales: Sequence[float],
    rounded: Callable[[float], int],
) -> tuple[Anchor, ...]:
    """Boxes of each ratio and scale around the square of side `base` at the origin."""
    centre = 0.5 * (base - 1)
    anchors = []
    for ratio in ratios:
        width = rounded((base * base / ratio) ** 0.5)
        height = rounded(width * ratio)
        for scale in scales:
            half = [0.5 * (side * scale - 1) for side in (width, height)]
            low, high = [centre - x for x in half], [centre + x for x in half]
            anchors.append((low[0], low[1], high[0], high[1]))
    return tuple(anchors)


def _half_up(value: float) -> int:
    return int(value + 0.5)


@python_layer("rpn.proposal_layer", "ProposalLayer")
def _proposal_layer(params: Params) -> Layer:
    """py-faster-rcnn's layer, with the defaults of its configuration."""
    given = options(params, "feat_stride", "scales", "ratios")
    return _usual(params, given, params.phase == "TRAIN")


@python_layer("pylayer.proposal_layer", "ProposalLayer")
def _proposal_layer_of_mnc(params: Params) -> Layer:
    """MNC's layer; its other options are about gradients."""
    test_alone(params)
    known = ("feat_stride", "gradient_scale", "use_clip", "clip_base")
    return _usual(params, options(params, *known), False)


def _usual(params: Params, given: Words, training: bool) -> Proposal:
    (stride, *_) = numbers(params, given, "feat_stride")
    pre, post = (12000, 2000) if training else (6000, 300)
    params.note(
        f"{params.span()}: ProposalLayer with the default configuration of "
        f"py-faster-rcnn, which the net does not hold: the best {pre} regions, {post} "
        "after suppression at 0.7, sides of 16 pixels at least"
    )
    return Proposal(
        _given_anchors(params, given),
        int(stride),
        pre,
        post,
        python=True,
        with_scores=params.tops > 1,
    )


@python_layer("SSH.layers.proposal_layer", "ProposalLayer")
def _proposal_layer_of_ssh(params: Params) -> Layer:
    """SSH's layer, which suppresses nothing at test."""
    test_alone(params)
    given = options(params, "feat_stride", "scales", "ratios", "base_size")
    (stride, *_) = numbers(params, given, "feat_stride")
    params.note(
        f"{params.span()}: ProposalLayer with the default configuration of SSH, which "
        f"the net does not hold: the best {BEST} regions, of any size; suppression "
        "comes after the net"
    )
    return Proposal(
        _given_anchors(params, given),
        int(stride),
        BEST,
        BEST,
        None,
        0,
        python=True,
        with_scores=params.tops > 1,
    )


BEST = 1000
"""How many regions SSH takes at test by default."""


def _given_anchors(params: Params, given: Words) -> tuple[Anchor, ...]:
    (base, *_) = numbers(params, given, "base_size", 16)
    ratios = numbers(params, given, "ratios", 0.5, 1, 2)
    scales = numbers(params, given, "scales", 8, 16, 32)
    return _anchors(int(base), ratios, scales, round)
