"""Pooling as Caffe does it. x is (N, *spatial, C)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.convolution import pad_spatial, window_slices


def max_pool(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """y[n, i, c] = the largest x[n, i * stride + w - pad, c] over w in window.

    x is (N, *spatial, C). As in Caffe NaN is passed over, nothing is below the lowest
    float, a window of padding alone gives that, and the gradient goes to the first
    maximum in row-major order. On CPU maxima of shifted slices, up to 20 times faster.
    """
    lowest = jnp.nan_to_num(jnp.asarray(-jnp.inf, x.dtype))
    x = pad_spatial(jnp.where(x > lowest, x, lowest), lowest, window, strides, padding)

    def native(x: Array) -> Array:
        y: Array = lax.reduce_window(
            x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "VALID"
        )
        return y

    def shifted(x: Array) -> Array:
        # The last axis first, and the earlier of equals kept: row-major order.
        for axis in range(len(window), 0, -1):
            slices = window_slices(x, window[axis - 1], strides[axis - 1], axis)
            x = functools.reduce(lambda a, b: jnp.where(b > a, b, a), slices)
        return x

    if max(window) > 8:  # so many slices cost more than they gain
        return native(x)
    y: Array = lax.platform_dependent(x, cpu=shifted, default=native)
    return y


def global_max_pool(x: Array) -> Array:
    """The largest value of each channel, (N, 1, ..., C): `max_pool` of all pixels."""
    return max_pool(x, x.shape[1:-1], (1,) * (x.ndim - 2))


def max_pool_with_mask(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> tuple[Array, Array]:
    """`max_pool`, and for each maximum the row-major index of its pixel in the image,
    -1 where there is none."""
    lowest = jnp.nan_to_num(jnp.asarray(-jnp.inf, x.dtype))
    pixels = jnp.arange(math.prod(x.shape[1:-1]), dtype=np.int32)
    pixels = pixels.reshape(1, *x.shape[1:-1], 1)
    indices = pad_spatial(pixels, -1, window, strides, padding)
    x = pad_spatial(jnp.where(x > lowest, x, lowest), lowest, window, strides, padding)
    for axis in range(len(window), 0, -1):
        of_axis = window[axis - 1], strides[axis - 1], axis
        values = window_slices(x, *of_axis)
        places = window_slices(indices, *of_axis)
        x, indices = values[0], places[0]
        for value, place in zip(values[1:], places[1:], strict=True):
            indices = jnp.where(value > x, place, indices)
            x = jnp.where(value > x, value, x)
    mask = jnp.where(x > lowest, indices, -1)
    return x, mask.astype(np.promote_types(x.dtype, np.float32))


def spatial_pyramid(pool: Callable[..., Array], x: Array, *levels: Any) -> Array:
    """The flattened `pool` of x (N, *spatial, C) at each level, one behind the other.

    A level is what `pool` takes behind x.
    """
    pooled = [pool(x, *level) for level in levels]
    flat = [y.reshape(y.shape[0], math.prod(y.shape[1:])) for y in pooled]
    return jnp.concatenate(flat, axis=-1)


def avg_pool(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pad: tuple[int, ...] = (),
    overhang: tuple[int, ...] = (),
) -> Array:
    """y[n, i, c] = sum over w of x[n, i * stride + w - pad, c] / size of that window.

    x is (N, *spatial, C) between zeros: `pad` of them at both ends of an axis count in
    the size, `overhang` of them beyond its high end do not, so that a window of those
    alone is 0 / 0. On CPU sums of shifted slices, up to 5 times faster there.
    """
    pad = pad or (0,) * len(window)
    overhang = overhang or (0,) * len(window)
    sizes = np.ones((1, 1))
    for size, w, s, p, o in zip(
        x.shape[1:-1], window, strides, pad, overhang, strict=True
    ):
        starts = np.arange(0, size + 2 * p + o - w + 1, s)
        extent = np.minimum(w, size + 2 * p - starts)
        sizes = sizes[..., None, :] * extent[:, None]
    pairs = [(p, p + o) for p, o in zip(pad, overhang, strict=True)]
    wide = np.promote_types(x.dtype, np.float32)
    padded = pad_spatial(x.astype(wide), 0, window, strides, pairs)

    def native(x: Array) -> Array:
        y: Array = lax.reduce_window(
            x, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), "VALID"
        )
        return y

    def shifted(x: Array) -> Array:
        for axis in range(len(window), 0, -1):
            if x.shape[axis] == window[axis - 1]:
                x = x.sum(axis, keepdims=True)
            else:
                slices = window_slices(x, window[axis - 1], strides[axis - 1], axis)
                x = sum(slices[1:], slices[0])
        return x

    total: Array = lax.platform_dependent(padded, cpu=shifted, default=native)
    return (total / jnp.asarray(sizes, wide)).astype(x.dtype)
