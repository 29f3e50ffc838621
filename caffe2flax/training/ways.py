"""How a variable becomes the blob that it is a permutation of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.ir.layout import Merged, Shape

Array = NDArray[Any]


class Way(NamedTuple):
    """How a variable becomes its blob: reshaped to `dims`, where a negative extent is
    an axis that runs backwards, transposed by `axes`, and reshaped to the blob.

    Where there are several `dims`, the rows of a matrix are in as many parts: each
    becomes columns of the blob.
    """

    axes: tuple[int, ...]
    dims: tuple[Shape, ...]


def way_of_view(array: Array | Merged) -> Way:
    """The way from a view that is all of a blob back to it."""
    view = array.array if isinstance(array, Merged) else array
    steps = view.strides
    # An axis of one entry has no order of its own: it stays beside its neighbours.
    axes = sorted(range(view.ndim), key=lambda i: (-abs(steps[i]), -view.shape[i]))
    signed = zip(view.shape, steps, strict=True)
    dims = tuple(-n if step < 0 and n > 1 else n for n, step in signed)
    return Way(tuple(axes), (dims,))


def way_of(order: Array) -> Way | None:
    """The way for a variable of which `order` has the place in the blob of each entry;
    None where it takes more than transposing, of the whole or of parts of the rows."""
    digits = _digits(order.reshape(-1))
    if digits is not None:
        dims, steps = digits
        axes = sorted(range(len(dims)), key=lambda i: -abs(steps[i]))
        return Way(tuple(axes), (dims,))
    if order.ndim != 2:
        return None
    rows, width = order.shape
    columns = order[:, 0]
    if not np.array_equal(order, columns[:, None] + rows * np.arange(width)):
        return None
    parts = _parts(columns)
    if parts is None:
        return None
    rank = max(len(dims) for dims, _ in parts)
    ways = {_axes(steps) for dims, steps in parts if len(dims) == rank}
    fitting = all(len(dims) in (1, rank) for dims, _ in parts)
    if len(ways) > 1 or not fitting:
        return None
    filled = ((*(1,) * (rank - len(dims)), *dims, width) for dims, _ in parts)
    return Way((rank, *ways.pop()), tuple(filled))


def _axes(steps: Shape) -> tuple[int, ...]:
    return tuple(sorted(range(len(steps)), key=lambda i: -abs(steps[i])))


def _digits(row: Array) -> tuple[Shape, Shape] | None:
    """Extents and steps of axes by which `row` counts through the blob; a negative
    extent counts down. None where there are no such axes."""
    dims: list[int] = []
    steps: list[int] = []
    while row.size > 1:
        step = int(row[1] - row[0])
        breaks = np.flatnonzero(np.diff(row) != step)
        extent = int(breaks[0]) + 1 if breaks.size else row.size
        if row.size % extent:
            return None
        rows = row.reshape(-1, extent)
        if not np.array_equal(rows, rows[:, :1] + step * np.arange(extent)):
            return None
        dims.insert(0, -extent if step < 0 else extent)
        steps.insert(0, step)
        row = rows[:, 0]
    return (tuple(dims), tuple(steps)) if dims else ((1,), (1,))


def _parts(columns: Array) -> list[tuple[Shape, Shape]] | None:
    """`_digits` of each part of rows that are side by side in the blob, too."""
    ends = np.flatnonzero(np.maximum.accumulate(columns) == np.arange(columns.size)) + 1
    # In a part that keeps its order every row could be an end: only the borders are.
    near = np.diff(ends, prepend=0) > 1
    borders = near | np.roll(near, -1) | np.roll(near, 1) | np.roll(near, -2)
    borders[[0, -1]] = True
    cuts = [int(end) for end in ends[borders]]
    found: dict[int, list[tuple[Shape, Shape]] | None] = {columns.size: []}
    for start in [*reversed(cuts[:-1]), 0]:
        found[start] = None
        for end in reversed([cut for cut in cuts if cut > start]):
            rest = found[end]
            digits = _digits(columns[start:end]) if rest is not None else None
            if rest is not None and digits is not None and min(digits[0]) > 0:
                found[start] = [digits, *rest]
                break
    return found[0]
