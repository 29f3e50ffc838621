"""SSD's last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layers._forks import four_axes
from caffe2flax.layout import Shape
from caffe2flax.params import Params
from caffe2flax.registry import Array, Layer, Site, arguments, layer, unless

CODES = ("CORNER", "CENTER_SIZE", "CORNER_SIZE")


class Detection(NamedTuple):
    """A box that stays, before the rows are written."""

    label: int
    score: float
    box: Array


@layer("DetectionOutput", "detection_output_param")
@dataclass(frozen=True, slots=True)
class DetectionOutput(Layer):
    """Rows (image, class, score, x1, y1, x2, y2) of the boxes that pass suppression.

    Caffe's number of rows follows from the data. The module has rows for as many as
    there can be; those that are left are -1 throughout and stand last.
    """

    bottoms = (3, 4)
    in_place = False

    num_classes: int
    share_location: bool = True
    background: int = 0
    code: str = "CORNER"
    encoded: bool = False
    confidence: float | None = None
    threshold: float = 0.3
    eta: float = 1.0
    top_k: int | None = None
    keep_top_k: int | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        # What is drawn or written to files is not part of the top.
        params.ignore("save_output_param", "save_file")
        params.ignore("visualize", "visualize_threshold")
        known = len(params.problems)
        classes = params.require("num_classes", int)
        background = params.get("background_label_id", 0)
        if len(params.problems) == known and classes < 1:
            params.error("num_classes", f"num_classes cannot be {classes}")
        elif classes == 1 and background == 0:
            params.error("num_classes", "there is no class beside the background")
        nms = params.sub("nms_param")
        threshold, eta = nms.get("nms_threshold", 0.3), nms.get("eta", 1.0)
        if not threshold >= 0:
            nms.error("nms_threshold", f"nms_threshold cannot be {threshold}")
        if not 0 < eta <= 1:
            nms.error("eta", f"eta must be above 0 and at most 1, not {eta}")
        top_k, keep = nms.get("top_k", -1), params.get("keep_top_k", -1)
        if top_k == 0:
            nms.error("top_k", "top_k 0 leaves nothing to detect")
        return cls(
            classes,
            share_location=params.get("share_location", True),
            background=background,
            code=_code(params),
            encoded=params.get("variance_encoded_in_target", False),
            confidence=params.optional("confidence_threshold", float),
            threshold=threshold,
            eta=eta,
            top_k=None if top_k < 0 else top_k,
            keep_top_k=None if keep < 0 else keep,
        )

    def _priors(self, *inputs: Shape) -> int:
        """How many prior boxes there are. Raises ConversionError."""
        loc, conf, prior = (four_axes(shape) for shape in inputs[:3])
        count = prior[2] // 4
        if prior[1:] != (2, count * 4, 1):
            raise ConversionError(
                f"prior boxes are a blob (1, 2, boxes * 4), not {inputs[2]}"
            )
        located = 1 if self.share_location else self.num_classes
        for what, shape, each in (
            ("locations", loc, located * 4),
            ("scores", conf, self.num_classes),
        ):
            if shape[1:] != (count * each, 1, 1):
                raise ConversionError(
                    f"{count} prior boxes need {what} of shape ({shape[0]}, "
                    f"{count * each}), not {(*shape[:2], *shape[2:])}"
                )
        if loc[0] != conf[0]:
            raise ConversionError(f"locations of {loc[0]} images, scores of {conf[0]}")
        return count

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        count = self._priors(*inputs)
        classes = sum(c != self.background for c in range(self.num_classes))
        best = count if self.top_k is None else min(self.top_k, count)
        rows = classes * best
        if self.keep_top_k is not None:
            rows = min(rows, max(self.keep_top_k, 1))
        return ((1, 1, inputs[0][0] * rows, 7),)

    def call(self, at: Site) -> str:
        return "detection_output({})".format(
            arguments(
                *at.args[:3],
                num_classes=self.num_classes,
                code_type=unless(self.code, "CORNER"),
                share_location=unless(self.share_location, True),
                background_label=unless(self.background, 0),
                variance_encoded_in_target=unless(self.encoded, False),
                confidence_threshold=unless(self.confidence, None),
                nms_threshold=unless(self.threshold, 0.3),
                eta=unless(self.eta, 1.0),
                top_k=self.top_k,
                keep_top_k=self.keep_top_k,
            )
        )

    def trim(self, top: Array) -> Array:
        detections: Array = top[:, :, top[0, 0, :, 0] >= 0]
        return detections

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        loc, conf, prior = inputs[:3]
        count = self._priors(loc.shape, conf.shape, prior.shape)
        boxes, variances = prior[0].reshape(2, count, 4)
        rows = []
        for image in range(len(loc)):
            offsets = loc[image].reshape(count, -1, 4)
            scores = conf[image].reshape(count, self.num_classes)
            decoded = np.empty_like(offsets)
            for p in range(count):
                for c in range(offsets.shape[1]):
                    decoded[p, c] = self._decode(boxes[p], variances[p], offsets[p, c])
            found = self._best(decoded, scores)
            rows += [[image, d.label, d.score, *d.box] for d in found]
        rows = rows or [[image, *[-1] * 6] for image in range(len(loc))]
        return np.array(rows, np.float64)[None, None]

    def _decode(self, prior: Array, variance: Array, offset: Array) -> Array:
        shift = offset if self.encoded else variance * offset
        size = prior[2:] - prior[:2]
        if self.code == "CORNER_SIZE":
            shift = shift * np.tile(size, 2)
        if self.code != "CENTER_SIZE":
            corners: Array = prior + shift
            return corners
        centre = (prior[:2] + prior[2:]) / 2 + shift[:2] * size
        extent = np.exp(shift[2:]) * size
        return np.concatenate([centre - extent / 2, centre + extent / 2])

    def _best(self, boxes: Array, scores: Array) -> list[Detection]:
        """Detections in one image; boxes (P, 1 or classes, 4), scores (P, classes)."""
        found = []
        for label in range(self.num_classes):
            if label == self.background:
                continue
            own = boxes[:, 0 if self.share_location else label]
            kept = self._suppressed(own, scores[:, label])
            found += [Detection(label, float(scores[i, label]), own[i]) for i in kept]
        if self.keep_top_k is None or len(found) <= self.keep_top_k:
            return found
        found.sort(key=lambda d: -d.score)
        return sorted(found[: self.keep_top_k], key=lambda d: d.label)

    def _suppressed(self, boxes: Array, scores: Array) -> list[int]:
        """The boxes of one class that stay, the best first."""
        low = np.finfo(np.float32).min if self.confidence is None else self.confidence
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > np.float32(low)][: self.top_k]
        kept: list[int] = []
        threshold = self.threshold
        for i in order:
            if all(_overlap(boxes[i], boxes[k]) <= threshold for k in kept):
                kept.append(i)
                threshold *= self.eta if threshold > 0.5 else 1
        return kept


def _overlap(a: Array, b: Array) -> float:
    """Intersection over union."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if not (sides > 0).all():
        return 0.0
    common = sides.prod()
    areas = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
    return float(common / (areas - common))


def _code(params: Params) -> str:
    """code_type, whose numbers start at 1."""
    numbered = ("", *CODES)
    code = params.choice("code_type", *numbered, default="CORNER")
    if not code:
        params.error("code_type", f"code_type is one of {', '.join(CODES)}")
    return code
