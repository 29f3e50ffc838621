"""What a convolution computes, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from caffe2flax.ir.layer import Array
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.window import Window, overhang

MATRIX = 2**19
"""Elements in a matrix of the reference: 4 MB, which is allocated fast and stays mostly
in the cache."""


def convolve(
    x: Array, kernel: Array, spatial: tuple[Window, ...], sizes: Shape, group: int
) -> Array:
    """x (N, C, *spatial) convolved into (N, O, *sizes), without bias.

    Products of matrices of at most MATRIX elements: for some rows of the top, and some
    positions of the kernel, at a time.
    """
    count, channels, *extents = x.shape
    outputs, each = kernel.shape[0], channels // group
    pads = [
        (w.pad, w.high + overhang(extent, w, size))
        for extent, w, size in zip(extents, spatial, sizes, strict=True)
    ]
    source = padded(x, pads)
    weight = kernel.reshape(group, -1, each, prod(kernel.shape[2:]))
    total = np.empty((count, outputs, *sizes))
    positions = list(product(*(range(w.kernel) for w in spatial)))
    line = max(1, count * channels * prod(sizes[1:]))
    rows = max(1, MATRIX // (line * len(positions)))
    most = max(1, MATRIX // (line * rows))
    for top, first in product(range(0, sizes[0], rows), range(0, len(positions), most)):
        some = (min(rows, sizes[0] - top), *sizes[1:])
        chunk = positions[first : first + most]
        columns = np.empty((count, channels, len(chunk), *some))
        for i, taps in enumerate(chunk):
            at = [tap * w.dilation for tap, w in zip(taps, spatial, strict=True)]
            at[0] += top * spatial[0].stride
            cut = tuple(
                slice(start, start + (size - 1) * w.stride + 1, w.stride)
                for start, size, w in zip(at, some, spatial, strict=True)
            )
            columns[:, :, i] = source[(slice(None), slice(None), *cut)]
        part = weight[..., first : first + most]
        summed = part.reshape(*part.shape[:2], -1) @ columns.reshape(
            count, group, each * len(chunk), prod(some)
        )
        summed = summed.reshape(count, outputs, *some)
        if first == 0:
            total[:, :, top : top + rows] = summed
        else:
            total[:, :, top : top + rows] += summed
    return total


def padded(x: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """x (N, C, *spatial) between zeros; a negative pad cuts off."""
    cut = tuple(
        slice(max(-low, 0), max(size + min(high, 0), 0))
        for size, (low, high) in zip(x.shape[2:], pads, strict=True)
    )
    ends = [(max(low, 0), max(high, 0)) for low, high in pads]
    return np.pad(x[(slice(None), slice(None), *cut)], [(0, 0)] * 2 + ends)
