"""The base class of SSD's detection layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.classes import ScoresByClass
from caffe2flax.ir.layer import Arity, Array, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.layers._forks import four_axes

CODES = ("CORNER", "CENTER_SIZE", "CORNER_SIZE")


class Detection(NamedTuple):
    """A box that passed suppression."""

    label: int
    score: float
    box: Array


@dataclass(frozen=True, slots=True)
class Detections(Layer, ScoresByClass):
    """Rows (image, class, score, x1, y1, x2, y2) of the boxes that pass suppression.

    Caffe's number of rows depends on the data. The module has the largest possible
    number; unused rows are last and -1 throughout.

    RefineDet has two more bottoms: scores (N, P * 2), with background where they are
    below `objectness_score`, and offsets (N, P * 4), which move the priors first.
    """

    bottoms: ClassVar[Arity] = (3, 5)
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
    objectness: float | None = None
    """RefineDet's threshold; None for other nets."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        # These fields are for drawing and for output files, not for the top.
        params.ignore("save_output_param", "save_file")
        params.ignore("visualize", "visualize_threshold")
        # Synopsys' fork: how pieces are ordered, where there are pieces.
        params.ignore("nbottom", "no_permute", "ratio_permute")
        params.ignore(*(f"ratio{i}" for i in range(6)))
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
        # A single fourth bottom is for drawing, unless RefineDet's field is given.
        refined = params.has("objectness_score") or params.bottoms == 5
        objectness = params.get("objectness_score", 0.01)
        if refined and params.bottoms < 4:
            refined = False
            params.note(
                f"{params.span()}: objectness_score has no meaning without a fourth "
                "bottom"
            )
        return cls(
            classes,
            objectness=objectness if refined else None,
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

    @property
    def scored(self) -> tuple[tuple[int, ...], int]:
        return (1,) if self.share_location else (0, 1), self.num_classes

    def with_classes(self, count: int, other: int) -> Detections | None:
        if count != self.num_classes or self.background >= count:
            return None
        return replace(self, num_classes=other)

    @property
    def foreground(self) -> range:
        """The numbers of the classes; the background's, where it is not the first, is
        among them."""
        return range(1 if self.background == 0 else 0, self.num_classes)

    def _priors(self, *inputs: Shape) -> int:
        """How many prior boxes there are. Raises ConversionError."""
        count = count_priors(
            inputs[0], inputs[1], inputs[2], self.num_classes, self.share_location
        )
        loc = four_axes(inputs[0])
        if self.objectness is not None:
            if len(inputs) > 4 and not self.share_location:
                raise ConversionError(
                    "offsets of the prior boxes go with share_location true"
                )
            for shape, each in zip(inputs[3:], (2, 4), strict=False):
                if four_axes(shape) != (loc[0], count * each, 1, 1):
                    raise ConversionError(
                        f"{count} prior boxes need bottoms ({loc[0]}, {count * 2}) and "
                        f"({loc[0]}, {count * 4}) to refine them, not {shape}"
                    )
        return count

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return ((1, 1, inputs[0][0] * self.rows(self._priors(*inputs)), 7),)

    def rows(self, count: int) -> int:
        """The largest number of rows for an image with `count` prior boxes."""
        classes = sum(c != self.background for c in range(self.num_classes))
        best = count if self.top_k is None else min(self.top_k, count)
        rows = classes * best
        if self.keep_top_k is not None:
            rows = min(rows, max(self.keep_top_k, 1))
        return rows

    def call(self, at: Site) -> str:
        loc, conf, priors = at.args[:3]
        if at.inputs[2].shape[0] > 1:
            priors = f"{at.operands[2]}[:1]"
        if self.objectness is not None:
            conf = (
                f"without_background({conf}, {at.args[3]}, {literal(self.objectness)})"
            )
        if self.objectness is not None and len(at.args) > 4:
            code = unless(self.code, "CORNER")
            encoded = unless(self.encoded, False)
            options = {"code_type": code, "variance_encoded_in_target": encoded}
            priors = f"refine_priors({arguments(priors, at.args[4], **options)})"
        return self.written(
            "detection_output",
            *(loc, conf, priors),
            code_type=unless(self.code, "CORNER"),
            share_location=unless(self.share_location, True),
            variance_encoded_in_target=unless(self.encoded, False),
        )

    def written(self, function: str, *args: str, **options: object) -> str:
        """The call of a function that takes what `detection_output` does."""
        given = arguments(
            *args,
            num_classes=self.num_classes,
            **options,
            background_label=unless(self.background, 0),
            confidence_threshold=unless(self.confidence, None),
            nms_threshold=unless(self.threshold, 0.3),
            eta=unless(self.eta, 1.0),
            top_k=self.top_k,
            keep_top_k=self.keep_top_k,
        )
        return f"{function}({given})"

    def trim(self, top: Array) -> Array:
        detections: Array = top[:, :, top[0, 0, :, 0] >= 0]
        return detections

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        loc, conf, prior = inputs[:3]
        count = self._priors(loc.shape, conf.shape, prior.shape)
        variances = prior[0].reshape(2, count, 4)[1]
        rows = []
        for image in range(len(loc)):
            offsets = loc[image].reshape(count, -1, 4)
            scores = conf[image].reshape(count, self.num_classes)
            if self.objectness is not None:
                objects = inputs[3][image].reshape(count, 2)[:, 1]
                scores = scores.copy()
                scores[objects < np.float32(self.objectness)] = np.eye(len(scores.T))[0]
            boxes = prior[0].reshape(2, count, 4)[0]
            if self.objectness is not None and len(inputs) > 4:
                moves = inputs[4][image].reshape(count, 4)
                moved = zip(boxes, variances, moves, strict=True)
                boxes = np.array([self.decode(*each) for each in moved])
            decoded = np.empty_like(offsets)
            for p in range(count):
                for c in range(offsets.shape[1]):
                    decoded[p, c] = self.decode(boxes[p], variances[p], offsets[p, c])
            detections = self.best(decoded, scores)
            rows += [[image, d.label, d.score, *d.box] for d in detections]
        rows = rows or [[image, *[-1] * 6] for image in range(len(loc))]
        return np.array(rows, np.float64)[None, None]

    def decode(self, prior: Array, variance: Array, offset: Array) -> Array:
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

    def best(self, boxes: Array, scores: Array) -> list[Detection]:
        """Detections in one image; boxes (P, 1 or classes, 4 or more), scores (P,
        classes)."""
        detections = []
        for label in range(self.num_classes):
            if label == self.background:
                continue
            own = boxes[:, 0 if self.share_location else label]
            kept = self._suppressed(own[:, :4], scores[:, label])
            detections += [
                Detection(label, float(scores[i, label]), own[i]) for i in kept
            ]
        if self.keep_top_k is None or len(detections) <= self.keep_top_k:
            return detections
        detections.sort(key=lambda d: -d.score)
        return sorted(detections[: self.keep_top_k], key=lambda d: d.label)

    def _suppressed(self, boxes: Array, scores: Array) -> list[int]:
        """The indices of the boxes of one class that pass suppression, the best
        first."""
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


def count_priors(
    loc: Shape, conf: Shape, prior: Shape, classes: int, share_location: bool
) -> int:
    """How many prior boxes there are, which locations and scores must be for. Raises
    ConversionError."""
    located, scored, boxes = (four_axes(shape) for shape in (loc, conf, prior))
    count = boxes[2] // 4
    if boxes[1:] != (2, count * 4, 1):
        raise ConversionError(f"prior boxes are a blob (1, 2, boxes * 4), not {prior}")
    for what, shape, each in (
        ("locations", located, 4 if share_location else 4 * classes),
        ("scores", scored, classes),
    ):
        if shape[1:] != (count * each, 1, 1):
            raise ConversionError(
                f"{count} prior boxes need {what} of shape ({shape[0]}, "
                f"{count * each}), not {(*shape[:2], *shape[2:])}"
            )
    if located[0] != scored[0]:
        text = f"locations of {located[0]} images, scores of {scored[0]}"
        raise ConversionError(text)
    return count


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
