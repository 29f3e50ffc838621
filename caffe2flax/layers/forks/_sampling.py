"""Images interpolated along an axis, for the references of layers that resize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe2flax.ir.layer import Array
from caffe2flax.ir.layout import Shape


def corners(n: int, m: int) -> Array:
    """Positions of the m entries of the top among n of the bottom, with first and last
    entries aligned."""
    return np.linspace(0, n - 1, m) if m > 1 else np.zeros(m)


def areas(n: int, m: int) -> Array:
    """The same, with each entry as the middle of an area."""
    return (np.arange(m) + 0.5) * n / m - 0.5


def points(n: int, m: int) -> Array:
    """The same, with each entry as the start of an area."""
    return np.arange(m) * n / m


def linear(x: Array, size: Shape, axes: Sequence[int], places: object) -> Array:
    """x interpolated along `axes`."""
    assert callable(places)
    for axis, m in zip(axes, size, strict=True):
        n = x.shape[axis]
        place = np.clip(places(n, m), 0, n - 1)
        low = np.minimum(np.floor(place).astype(int), n - 1)
        weight = np.zeros((m, n))
        weight[np.arange(m), low] += 1 - (place - low)
        weight[np.arange(m), np.minimum(low + 1, n - 1)] += place - low
        x = np.moveaxis(np.tensordot(weight, x, (1, axis)), 0, axis)
    return x
