"""What layers of MS-CNN and Cascade R-CNN have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import numpy as np

from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Arity, Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params

Four = tuple[float, ...]
MEANS: Four = (0.0, 0.0, 0.0, 0.0)
STDS: Four = (1.0, 1.0, 1.0, 1.0)
SHARES = {"IOU": "union", "IOMU": "smaller", "IOFU": "first"}


def normal(params: Params) -> tuple[Four, Four]:
    """bbox_mean and bbox_std of `bbox_reg_param`."""
    params.ignore("cls_aware")
    means, stds = params.all("bbox_mean", float), params.all("bbox_std", float)
    if not means or not stds:
        return MEANS, STDS
    for name, values in (("bbox_mean", means), ("bbox_std", stds)):
        if len(values) != 4:
            params.error(name, f"{name} needs 4 values, not {len(values)}")
    if not all(std > 0 for std in stds):
        params.error("bbox_std", f"bbox_std must be positive, not {stds}")
    return means, stds


def trimmed(top: Array) -> Array:
    """Rows (image, x1, y1, x2, y2), without repetitions of the last one, or with a
    score behind, without those of -1."""
    rows = top.reshape(len(top), -1)
    if rows.shape[1] == 6:
        scored: Array = top[rows[:, 0] >= 0]
        return scored
    new = np.any(rows[1:] != rows[:-1], 1)
    return top[: np.max(np.nonzero(new)[0], initial=-1) + 2]


def overlap(a: Array, b: Array, share: str) -> float:
    """What two boxes whose borders are inside them have in common, as a share."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    if high[0] < low[0] or high[1] <= low[1]:
        return 0.0
    one, other = (a[2:] - a[:2] + 1).prod(), (b[2:] - b[:2] + 1).prod()
    common = (high - low + 1).prod()
    whole = {"union": one + other - common, "smaller": min(one, other)}
    return float(common / whole.get(share, one))


@dataclass(frozen=True, slots=True)
class BoxesOfMaps(Layer):
    """What BoxOutput and BoxGroupOutput share: settings, suppression, rows."""

    bottoms: ClassVar[Arity] = (1, None)
    tops: ClassVar[Arity] = (1, 2)
    in_place: ClassVar[bool] = False
    function: ClassVar[str]

    fields: tuple[Any, ...]
    strides: tuple[float, ...]
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

    @abstractmethod
    def found(self, image: int, inputs: Sequence[Array]) -> list[tuple[float, Array]]:
        """Score and corners of what the maps predict for an image, the best first."""

    @abstractmethod
    def overlap(self, a: Array, b: Array) -> float:
        """What two boxes have in common, as a share."""

    @abstractmethod
    def images(self, first: Shape) -> int:
        """The number of images of the first bottom."""

    def rows(self, images: int, cells: int) -> tuple[Shape, ...]:
        """The shapes of the tops for maps of so many boxes an image."""
        best = min(self.top_k or cells, self.keep_top_k or cells, cells)
        tops = ((best * images, 5, 1, 1), (best * images, 6, 1, 1))
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
        return f"{self.function}({settings})" + ("" if self.with_scores else "[0]")

    def trim(self, top: Array) -> Array:
        return trimmed(top)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        rows: list[list[float]] = []
        for image in range(self.images(inputs[0].shape)):
            kept: list[Array] = []
            for score, box in self.found(image, inputs)[: self.top_k or None]:
                if all(self.overlap(other, box) <= self.threshold for other in kept):
                    kept.append(box)
                    rows.append([image, *box, score])
                if len(kept) == (self.keep_top_k or -1):
                    break
        scored = np.array(rows or [[0] * 6], np.float64)[..., None, None]
        regions = scored[:, :5] if rows else np.array([[0, 1, 1, 10, 10]], np.float64)
        regions = regions.reshape(-1, 5, 1, 1)
        return (regions, scored) if self.with_scores else regions

    def moved(
        self, shift: Array, field: Any, cell: tuple[int, int], stride: float
    ) -> tuple[Array, Array]:
        """The centre and the size of the box of a cell (x, y) that a prediction of four
        numbers moves."""
        limit, factor = 1 / self.shift_ratio, log(self.size_ratio)
        shift = shift * self.stds + self.means
        middle = (np.array(cell) + 0.5) * stride
        size = np.array(field)
        centre = shift[:2].clip(-limit, limit) * size + middle
        return centre, size * np.exp(shift[2:].clip(-factor, factor))


def settings(params: Params) -> dict[str, Any]:
    """The fields of `BoxesOfMaps` that both forks' messages name alike."""
    ratios = [params.get(name, 2.0) for name in ("field_whr", "field_xyr")]
    if ratios[0] < 1 or not ratios[1] > 0:
        params.error(None, f"field_whr and field_xyr cannot be {ratios}")
    assert params.parent is not None
    means, stds = normal(params.parent.sub("bbox_reg_param"))
    return {
        "score": params.get("fg_thr", 0.0),
        "threshold": params.get("iou_thr", 0.5),
        "share": SHARES.get(params.get("nms_type", "IOU"), "union"),
        "size_ratio": ratios[0],
        "shift_ratio": ratios[1],
        "top_k": max(params.get("max_nms_num", 0), 0),
        "keep_top_k": max(params.get("max_post_nms_num", 0), 0),
        "min_size": params.get("min_size", 15.0),
        "means": means,
        "stds": stds,
        "with_scores": params.tops > 1,
    }
