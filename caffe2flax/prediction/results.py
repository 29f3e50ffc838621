"""What a net says of one image: its output, read as classes, boxes, a map or points.

Positions are pixels of the photograph, x to the right and y down from its upper left
corner, whatever size the net reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A class by number, and its score."""

    number: int
    score: float


@dataclass(frozen=True, slots=True)
class Classes:
    """The best classes, the best first."""

    best: tuple[Ranked, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """An object: its class by number, and the corners of its box."""

    number: int
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects in an image, the best first."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """The class of every pixel of the photograph (H, W), bytes; OUTSIDE where the net
    does not see it."""

    numbers: NDArray[np.uint8]


OUTSIDE = 255


@dataclass(frozen=True, slots=True)
class Point:
    """A point by number, and its score, NaN where there is none."""

    number: int
    x: float
    y: float
    score: float


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The points found in an image; a number may occur several times, or never."""

    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that the net computes: bytes (H, W, 3) in R, G, B, or (H, W, 1)."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Flow:
    """Where each pixel moves to (H, W, 2): pixels of the net's output to the right and
    down."""

    shifts: NDArray[np.float32]


Result = Classes | Detections | Labels | Keypoints | Picture | Flow
