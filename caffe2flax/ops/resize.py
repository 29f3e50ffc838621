"""Images in another size. Places are computed in float32, as Caffe's forks do."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def resize_linear(
    x: Array,
    size: Sequence[int],
    *,
    align_corners: bool = False,
    half_pixel: bool = False,
    axes: Sequence[int] = (1, 2),
) -> Array:
    """x interpolated linearly along `axes` to `size`.

    Entry i lies at i * in / out; align_corners: at i * (in - 1) / (out - 1);
    half_pixel: at (i + 1/2) * in / out - 1/2. What lies outside is the border.
    """
    for axis, out in zip(axes, size, strict=True):
        extent = x.shape[axis]
        last = align_corners and out > 1
        step = np.float32((extent - 1) / (out - 1) if last else extent / out)
        place = np.arange(out, dtype=np.float32) * step
        if half_pixel:
            place = (np.arange(out, dtype=np.float32) + 0.5) * step - 0.5
        place = np.clip(place, 0, extent - 1)
        low = place.astype(np.int32)
        part = (place - low).reshape(
            [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
        )
        before = jnp.take(x, low, axis)
        after = jnp.take(x, np.minimum(low + 1, extent - 1), axis)
        x = before + (after - before) * jnp.asarray(part, x.dtype)
    return x


def resize_nearest(
    x: Array,
    size: Sequence[int],
    *,
    align_corners: bool = False,
    shift: float = 0,
    offset: float = 0,
    axes: Sequence[int] = (1, 2),
) -> Array:
    """x in `size` along `axes`.

    Entry i is that at floor((i + shift) * in / out - offset); with align_corners the
    one nearest to i * (in - 1) / (out - 1).
    """
    for axis, out in zip(axes, size, strict=True):
        extent = x.shape[axis]
        last = align_corners and out > 1
        step = np.float32((extent - 1) / (out - 1) if last else extent / out)
        place = (np.arange(out, dtype=np.float32) + np.float32(shift)) * step - offset
        floor = np.floor(place)
        index = floor + (align_corners and place - floor >= 0.5)
        x = jnp.take(x, np.clip(index, 0, extent - 1).astype(np.int32), axis)
    return x


def repeat_pixels(
    x: Array, times: Sequence[int], axes: Sequence[int] = (1, 2)
) -> Array:
    """x with each entry along `axes` repeated."""
    for axis, count in zip(axes, times, strict=True):
        x = jnp.repeat(x, count, axis)
    return x


def crop_pixels(
    x: Array, start: Sequence[int], stop: Sequence[int], axes: Sequence[int] = (1, 2)
) -> Array:
    """The entries from start to stop along `axes`."""
    for axis, low, high in zip(axes, start, stop, strict=True):
        x = lax.slice_in_dim(x, low, high, axis=axis)
    return x
