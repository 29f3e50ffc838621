"""The numbers of one image in a net's output -> a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import FindsObjects, NumbersClasses, Probabilities
from caffe2flax.prediction.images import Recipe
from caffe2flax.prediction.kinds import Reading
from caffe2flax.prediction.regions import detect
from caffe2flax.prediction.results import (
    OUTSIDE,
    Box,
    Classes,
    Detections,
    Flow,
    Keypoints,
    Labels,
    Picture,
    Point,
    Ranked,
    Result,
)

Array = NDArray[Any]
Size = tuple[int, int]

PARTS = 2.0
"""Coordinates up to this are parts of the input's width and height, larger ones its
pixels."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is shown of a result: the `top` best classes; boxes and peaks with at least
    `threshold`. planar: points are all x, then all y, not x and y in turn."""

    top: int = 5
    threshold: float = 0.5
    planar: bool = False


def decode_result(
    reading: Reading,
    arrays: Mapping[str, Array],
    recipe: Recipe,
    photo: Size,
    choice: Choice,
    place: int,
) -> Result:
    """The result for the image at `place` of a batch; `arrays` are the blobs of the
    reading in Caffe's axis order, `photo` is height and width of the photograph. Raises
    ConversionError where the blob has no row for the image."""
    blob = arrays[reading.blob]
    if reading.kind == "detections":
        rows = _detected(reading, arrays, recipe, place)
        return _boxes(rows, recipe, photo, choice)
    row = blob[place]
    match reading.kind:
        case "classes":
            return ranked(row.reshape(-1), choice.top)
        case "labels":
            return _labels(reading, row, recipe, photo)
        case "keypoints":
            return _keypoints(reading, row, recipe, photo, choice)
        case "image":
            return _picture(reading, row, recipe)
    return Flow(np.ascontiguousarray(row.transpose(1, 2, 0), np.float32))


def ranked(scores: Array, count: int) -> Classes:
    """The `count` best classes, the best first; the lower number where two are
    equal."""
    order = np.argsort(-scores, kind="stable")[:count]
    return Classes(tuple(Ranked(int(i), float(scores[i])) for i in order))


def _detected(
    reading: Reading, arrays: Mapping[str, Array], recipe: Recipe, place: int
) -> Array:
    """Rows (class, score, x1, y1, x2, y2), the corners in parts of the input."""
    if reading.regions is not None:
        of = reading.regions
        return detect(
            arrays[of.regions],
            arrays[reading.blob].reshape(len(arrays[reading.blob]), -1),
            arrays[of.shifts].reshape(len(arrays[of.shifts]), -1),
            recipe.size,
        )
    rows = arrays[reading.blob].reshape(-1, 7)
    if isinstance(reading.maker, FindsObjects) and reading.maker.counts_images:
        rows = rows[rows[:, 0] == place]
    return rows[rows[:, 1] >= 0, 1:]


def _boxes(rows: Array, recipe: Recipe, photo: Size, choice: Choice) -> Detections:
    rows = rows[rows[:, 1] >= choice.threshold]
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    corners = np.concatenate(
        [recipe.place(rows[:, i : i + 2], photo) for i in (2, 4)], 1
    )
    return Detections(
        tuple(
            Box(int(number), float(score), *map(float, box))
            for (number, score), box in zip(rows[:, :2], corners, strict=True)
        )
    )


def _labels(reading: Reading, row: Array, recipe: Recipe, photo: Size) -> Labels:
    """The best class of each pixel, brought to the photograph by the nearest pixel."""
    numbers = row[0] if isinstance(reading.maker, NumbersClasses) else row.argmax(0)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < OUTSIDE:
        most = f"a map of labels holds classes 0 to {OUTSIDE - 1}"
        raise ConversionError(f"{most}, not {numbers.min():g} to {numbers.max():g}")
    height, width = numbers.shape
    y, x = (recipe.unplace(np.arange(n) + 0.5, n, axis) for axis, n in enumerate(photo))
    rows, columns = (y * height).astype(np.intp), (x * width).astype(np.intp)
    seen = np.ix_((y >= 0) & (y < 1), (x >= 0) & (x < 1))
    made = np.full(photo, OUTSIDE, np.uint8)
    inner = numbers.astype(np.uint8)[
        np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))
    ]
    made[seen] = inner[seen]
    return Labels(made)


def _keypoints(
    reading: Reading, row: Array, recipe: Recipe, photo: Size, choice: Choice
) -> Keypoints:
    if reading.peaks_in[0]:
        found = _peaks(row, reading.peaks_in, choice.threshold)
    elif row.ndim == 3 and row[0].size > 1:
        found = _maxima(row)
    else:
        found = _coordinates(row.reshape(-1), recipe.size, choice.planar)
    places = recipe.place(found[:, 1:3], photo)
    return Keypoints(
        tuple(
            Point(int(number), float(x), float(y), float(score))
            for (number, *_, score), (x, y) in zip(found, places, strict=True)
        )
    )


def _peaks(row: Array, size: Size, threshold: float) -> Array:
    """Rows (part, x, y, value) of the peaks (parts, peaks + 1, 3)."""
    height, width = size
    found = [
        (part, (x + 0.5) / width, (y + 0.5) / height, value)
        for part, peaks in enumerate(row)
        for x, y, value in peaks[1 : 1 + int(np.nan_to_num(peaks[0, 0]))]
        if value >= threshold
    ]
    return np.array(found, np.float64).reshape(-1, 4)


def _maxima(maps: Array) -> Array:
    """Rows (part, x, y, value) of the largest value of each map."""
    count, height, width = maps.shape
    places = maps.reshape(count, -1).argmax(1)
    y, x = np.divmod(places, width)
    values = maps.reshape(count, -1).max(1)
    return np.stack(
        [np.arange(count), (x + 0.5) / width, (y + 0.5) / height, values], 1
    )


def _coordinates(numbers: Array, size: Size, planar: bool) -> Array:
    """Rows (part, x, y, NaN) of coordinates in parts or in pixels of the input."""
    points = numbers.astype(np.float64)
    points = points.reshape(2, -1).T if planar else points.reshape(-1, 2)
    if np.abs(points).max(initial=0) > PARTS:
        points = points / size[::-1]
    count = len(points)
    return np.column_stack([np.arange(count), points, np.full(count, np.nan)])


def _picture(reading: Reading, row: Array, recipe: Recipe) -> Picture:
    """An image on the scale of the net's input; probabilities from black to white."""
    if isinstance(reading.maker, Probabilities):
        pixels = row.transpose(1, 2, 0) * 255
    else:
        pixels = recipe.undo(row.transpose(1, 2, 0))
    # NaN becomes black.
    whole = np.nan_to_num(np.rint(pixels), nan=0.0).clip(0, 255)
    return Picture(whole.astype(np.uint8))
