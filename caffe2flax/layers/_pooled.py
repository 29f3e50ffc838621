"""What pooling computes: the sizes of its top, and each window's value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from caffe2flax.ir.layer import Array
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.window import Window, pool_output, pool_windows

LOWEST = float(np.finfo(np.float32).min)
"""What Caffe starts a maximum from."""


def pooled(sizes: Shape, spatial: tuple[Window, ...], *, ceil: bool) -> Shape:
    """Sizes of the output. Raises ConversionError where Caffe aborts."""
    clip = any(w.pads for w in spatial)
    return tuple(
        pool_output(size, w, ceil=ceil, clip=clip)
        for size, w in zip(sizes, spatial, strict=True)
    )


def slide(x: Array, method: str, spatial: tuple[Window, ...], sizes: Shape) -> Array:
    """x (N, C, *spatial) pooled into `sizes`; MASK is where MAX found its value, and
    AVE_EXC_PAD divides by the pixels alone."""
    ranges = [list(each) for each in map(pool_windows, x.shape[2:], spatial, sizes)]
    largest = seen = np.where(x > LOWEST, x, LOWEST)
    pixels, sums = np.ones(()), x
    for axis, each in enumerate(ranges, 2):
        largest = _along(largest, each, axis, np.maximum)
        counts = [
            end - start if method == "AVE_EXC_PAD" else divisor
            for start, end, divisor in each
        ]
        pixels = np.multiply.outer(pixels, np.array(counts, float))
        sums = _along(sums, each, axis, np.add) if "AVE" in method else sums
    if "AVE" in method:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums / pixels)
    return largest if method == "MAX" else _places(seen, largest, *ranges)


def weighted(x: Array, spatial: tuple[Window, ...], sizes: Shape) -> Array:
    """Mean of each window of x (N, C, H, W) with itself as weight: what STOCHASTIC
    gives at test. 0 where the sum of the weights is not positive."""
    top = np.zeros((*x.shape[:2], *sizes))
    for i, j, window in _each(x, spatial, sizes):
        total = window.sum(-1)
        squares = np.square(window).sum(-1)
        top[:, :, i, j] = np.where(total > 0, squares, 0) / np.where(
            total > 0, total, 1
        )
    return top


def draw(x: Array, spatial: tuple[Window, ...], sizes: Shape) -> Array:
    """One value of each window of x (N, C, H, W), drawn with itself as weight: what
    STOCHASTIC gives in training. The same at every call; 0 where there is none."""
    rng = np.random.default_rng(0)
    top = np.zeros((*x.shape[:2], *sizes))
    for i, j, window in _each(x, spatial, sizes):
        if window.size:
            sums = window.cumsum(-1)
            threshold = rng.uniform(size=sums.shape[:-1]) * sums[..., -1]
            chosen = (sums >= threshold[..., None]).argmax(-1)
            picked = np.take_along_axis(window, chosen[..., None], -1)
            top[:, :, i, j] = picked[..., 0]
    return top


def _each(
    x: Array, spatial: tuple[Window, ...], sizes: Shape
) -> Iterator[tuple[int, int, Array]]:
    """Each row and column of the top, with the pixels (N, C, pixels) of its window."""
    rows, columns = map(pool_windows, x.shape[2:], spatial, sizes)
    for i, (y0, y1, _) in enumerate(rows):
        for j, (x0, x1, _) in enumerate(columns):
            yield i, j, x[:, :, y0:y1, x0:x1].reshape(*x.shape[:2], -1)


Ranges = Sequence[tuple[int, int, int]]


def _along(x: Array, ranges: Ranges, axis: int, method: np.ufunc) -> Array:
    """`x` with each of `ranges` of an axis as one entry."""
    start = LOWEST if method is np.maximum else 0.0
    before = (slice(None),) * axis
    taken = (x[(*before, slice(low, high))] for low, high, _ in ranges)
    return np.stack([method.reduce(t, axis, initial=start) for t in taken], axis)


def _places(seen: Array, largest: Array, rows: Ranges, columns: Ranges) -> Array:
    """The first pixel of each window that holds its `largest`, -1 where none does."""
    top = np.empty(largest.shape)
    for i, (y0, y1, _) in enumerate(rows):
        for j, (x0, x1, _) in enumerate(columns):
            pixels = np.arange(y0, y1)[:, None] * seen.shape[3] + np.arange(x0, x1)
            found = seen[:, :, y0:y1, x0:x1].reshape(*seen.shape[:2], -1)
            place = found.argmax(-1) if found.size else np.zeros(seen.shape[:2], int)
            index = pixels.ravel()[place] if found.size else place
            top[:, :, i, j] = np.where(largest[:, :, i, j] > LOWEST, index, -1)
    return top
