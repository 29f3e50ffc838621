"""Splits a picture into columns, like the text of a newspaper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import log

from caffe2flax.drawing.picture import Picture

RATIO = 1.2
"""Width to height that suits a slide as well as a page."""
MOST_COLUMNS = 24
ROW_HEIGHT = 1.15
BOX_WIDTH = 1.55
"""Approximate inches of a box with its arrow, for the choice of the number of
columns."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Boxes between two cuts; only one blob crosses a cut."""

    numbers: range
    rows: int
    width: int
    """The largest number of boxes in a row."""


def columns_of(picture: Picture) -> list[range]:
    """The boxes of each column, with the number of columns that is nearest to RATIO."""
    segments = list(_segments(picture))
    if not segments:
        return [range(0)]
    best: list[range] = []
    least = float("inf")
    for count in range(1, MOST_COLUMNS + 1):
        split = _split(segments, count)
        height = max(sum(s.rows for s in column) for column in split) * ROW_HEIGHT
        width = sum(max(s.width for s in column) for column in split) * BOX_WIDTH
        off = abs(log(width / height / RATIO))
        if off < least:
            least = off
            best = [range(c[0].numbers.start, c[-1].numbers.stop) for c in split]
    return best


def _split(segments: list[_Segment], count: int) -> list[list[_Segment]]:
    """At most `count` columns of the smallest possible height."""
    low = max(segment.rows for segment in segments)
    high = sum(segment.rows for segment in segments)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(segments, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return _filled(segments, low)


def _filled(segments: list[_Segment], height: int) -> list[list[_Segment]]:
    """Columns of at most `height` rows, each filled until the next segment does not
    fit."""
    columns: list[list[_Segment]] = []
    left = 0
    for segment in segments:
        if segment.rows > left:
            columns.append([])
            left = height
        columns[-1].append(segment)
        left -= segment.rows
    return columns


def _segments(picture: Picture) -> Iterator[_Segment]:
    """The boxes between cuts. A cut is after each box from which all arrows across the
    cut start, but not after an input, before an output or inside a block."""
    boxes, arrows = picture.boxes, picture.arrows
    into: list[list[int]] = [[] for _ in boxes]
    reach = list(range(len(boxes)))
    for arrow in arrows:
        into[arrow.head].append(arrow.tail)
        reach[arrow.tail] = max(reach[arrow.tail], arrow.head)
    start, furthest = 0, 0
    depth: dict[int, int] = {}
    for number, box in enumerate(boxes):
        inner = [depth[tail] for tail in into[number] if tail >= start]
        depth[number] = max(inner, default=-1) + 1
        following = boxes[number + 1] if number + 1 < len(boxes) else None
        together = box.end or (
            following is not None
            and (
                following.kind == "output"
                or (bool(box.block) and box.block == following.block)
            )
        )
        if furthest <= number and reach[number] > number and not together:
            yield _measured(range(start, number + 1), depth)
            start = number + 1
        furthest = max(furthest, reach[number])
    if start < len(boxes):
        yield _measured(range(start, len(boxes)), depth)


def _measured(numbers: range, depth: dict[int, int]) -> _Segment:
    rows = Counter(depth[number] for number in numbers)
    return _Segment(numbers, max(rows) + 1, max(rows.values()))
