"""Windows of images, as detectors were once trained on them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from caffe2flax.training.library.image import decode, resize


class Windows:
    """The windows of a list, for the places of a batch: item i is the list of windows
    that place i draws one of, the background's in front of the foreground's.

    A window is (file, label, x1, y1, x2, y2); one that overlaps an object by
    `foreground` or more has its label, one by less than `background` has label 0.
    """

    def __init__(
        self,
        path: str,
        folder: str,
        root: str,
        batch: int,
        fraction: float,
        foreground: float,
        background: float,
    ):
        front, back = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
        lines = iter(Path(path).read_text().splitlines())
        try:
            for head in lines:
                if not head.strip():
                    continue
                if not head.startswith("#"):
                    raise ValueError(f"{head[:40]!r} where an image begins with #")
                file = os.path.join(folder, root + next(lines).strip())
                *_, count = (int(next(lines)) for _ in range(4))
                for _ in range(count):
                    label, overlap, *corners = next(lines).split()
                    box = tuple(map(int, corners))
                    if len(box) != 4:
                        raise ValueError(f"a window of {len(box)} numbers, not 4")
                    if np.float32(overlap) >= np.float32(foreground):
                        front.append((file, int(label), *box))
                    elif np.float32(overlap) < np.float32(background):
                        back.append((file, 0, *box))
        except (ValueError, StopIteration, RuntimeError) as error:
            raise ValueError(f"{path}: {error or 'ends too early'}") from error
        count = int(np.float32(batch) * np.float32(fraction))
        self.places = [back] * (batch - count) + [front] * count
        if not all(self.places):
            raise ValueError(f"{path}: no windows of the foreground or the background")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> list[tuple[Any, ...]]:
        return self.places[i]


def window_image(
    window: tuple[Any, ...],
    rng: np.random.Generator,
    *,
    crop: int,
    pad: int = 0,
    square: bool = False,
    mean: Any = None,
    mirror: bool = False,
    scale: float = 1.0,
) -> Any:
    """A window, warped to crop x crop with `pad` pixels of context, float32 (height,
    width, channels); what lies outside the image is 0. mean: (channels,), or a larger
    (height, width, channels) whose middle counts."""
    file, _, x1, y1, x2, y2 = window
    try:
        image = decode(Path(file).read_bytes(), True)
    except Exception as error:
        raise ValueError(f"{file}: {error}") from error
    mirrored = bool(mirror and rng.integers(2))
    (x1, x2, left, wide), (y1, y2, top, high) = _extents(
        image.shape[1::-1], (x1, y1, x2, y2), crop, pad, square, mirrored
    )
    part = image[y1 : y2 + 1, x1 : x2 + 1]
    if not part.size or wide < 1 or high < 1:
        raise ValueError(f"{file}: window {window[2:]} lies outside {image.shape}")
    x = resize(part, high, wide).astype(np.float32)
    if mirrored:
        x = x[:, ::-1]
    if mean is not None and mean.ndim == 3:
        off = (mean.shape[1] - crop) // 2
        mean = mean[off + top :, off + left :][:high, :wide]
    if mean is not None:
        x = x - mean
    result = np.zeros((crop, crop, x.shape[2]), np.float32)
    result[top : top + high, left : left + wide] = x * np.float32(scale)
    return result


def _extents(
    size: tuple[int, ...],
    corners: tuple[int, int, int, int],
    crop: int,
    pad: int,
    square: bool,
    mirrored: bool,
) -> list[tuple[int, int, int, int]]:
    """Along x and y: the first and last pixel of the image, and where in the crop its
    warped pixels begin and how many there are. In float32, as Caffe computes it."""

    def rounded(x: Any) -> int:
        return int(math.copysign(math.floor(abs(float(x)) + 0.5), x))

    x1, y1, x2, y2 = corners
    if not pad and not square:
        return [(x1, x2, 0, crop), (y1, y2, 0, crop)]
    half = [np.float32(b - a + 1) / np.float32(2) for a, b in ((x1, x2), (y1, y2))]
    centres = [np.float32(a) + h for a, h in zip((x1, y1), half, strict=True)]
    if square:
        half = [max(half)] * 2
    grown = np.float32(crop) / np.float32(crop - 2 * pad)
    found = []
    for axis, (centre, h) in enumerate(zip(centres, half, strict=True)):
        first, last = rounded(centre - h * grown), rounded(centre + h * grown)
        scale = np.float32(crop) / np.float32(last - first + 1)
        before, behind = max(0, -first), max(0, last - size[axis] + 1)
        first, last = first + before, last - behind
        extent = rounded(np.float32(last - first + 1) * scale)
        turned = mirrored and axis == 0
        start = rounded(np.float32(behind if turned else before) * scale)
        found.append((first, last, start, min(extent, crop - start)))
    return found
