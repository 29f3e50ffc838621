"""The last step of an R-CNN, which its nets leave to the program that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

OVERLAP = 0.3
"""Of two boxes of a class that overlap by more, the better one stays: the usual test of
py-faster-rcnn."""
LARGEST = float(np.log(1000 / 16))
"""Exponents of widths and heights are cut off here, before they overflow."""


def detect(
    regions: Array, scores: Array, shifts: Array, size: tuple[int, int]
) -> Array:
    """Rows (class, score, x1, y1, x2, y2), the corners in parts of the input.

    regions: (R, 5) in pixels of the input; scores: (R, classes), the background first;
    shifts: (R, 4 for each class), or (R, 8) of background and object. size: height and
    width of the input.
    """
    boxes = regions[:, 1:5].astype(np.float64)
    found = [np.zeros((0, 6))]
    for number in range(1, scores.shape[1]):
        own = number if shifts.shape[1] == 4 * scores.shape[1] else 1
        moved = _moved(boxes, shifts[:, 4 * own : 4 * own + 4], size)
        kept = [*_suppressed(moved, scores[:, number])]
        count = len(kept)
        parts = moved[kept] / (size[1], size[0], size[1], size[0])
        found.append(
            np.column_stack([np.full(count, number), scores[kept, number], parts])
        )
    return np.concatenate(found)


def _moved(boxes: Array, shifts: Array, size: tuple[int, int]) -> Array:
    """Boxes (R, 4) moved by (R, 4) and clipped to the input; the last pixel belongs to
    a box."""
    extents = boxes[:, 2:] - boxes[:, :2] + 1
    middles = boxes[:, :2] + extents / 2 + shifts[:, :2] * extents
    half = np.exp(np.minimum(shifts[:, 2:], LARGEST)) * extents / 2
    corners = np.concatenate([middles - half, middles + half], 1)
    height, width = size
    most = (width - 1, height - 1, width - 1, height - 1)
    clipped: Array = np.clip(corners, 0, most)
    return clipped


def _suppressed(boxes: Array, scores: Array) -> Iterator[int]:
    """The boxes that overlap with no better one, the best first."""
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    while len(order):
        best, others = order[0], order[1:]
        yield int(best)
        high = np.maximum(boxes[best, :2], boxes[others, :2])
        low = np.minimum(boxes[best, 2:], boxes[others, 2:])
        common = np.prod(np.maximum(low - high + 1, 0), axis=1)
        order = others[common <= OVERLAP * (areas[best] + areas[others] - common)]
