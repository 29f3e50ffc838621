"""Pooling as Caffe does it, where Flax's differs. x is (N, *spatial, C)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from caffe2flax.ops.window import pad_spatial, window_slices


def max_pool(x: Array, *args: Any, **options: Any) -> Array:
    """nnx.max_pool, but a window of padding alone gives the lowest float."""
    lowest = jnp.nan_to_num(jnp.asarray(-jnp.inf, x.dtype))
    return jnp.maximum(nnx.max_pool(x, *args, **options), lowest)


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
    pad: tuple[int | tuple[int, int], ...],
    overhang: tuple[int, ...],
) -> Array:
    """y[n, i, c] = sum over w of x[n, i * stride + w - pad, c] / size of that window.

    x is (N, *spatial, C) between zeros: `pad` of them at both or (low, high) ends of an
    axis count in the size, `overhang` of them beyond its high end do not.
    """
    ends = [p if isinstance(p, tuple) else (p, p) for p in pad]
    pairs = [(low, high + o) for (low, high), o in zip(ends, overhang, strict=True)]
    padded = [n + sum(both) for n, both in zip(x.shape[1:-1], ends, strict=True)]
    sizes = np.ones(())
    for n, w, s, o in zip(padded, window, strides, overhang, strict=True):
        starts = np.arange(0, n + o - w + 1, s)
        sizes = np.multiply.outer(sizes, np.minimum(w, n - starts) / w)
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    y: Array = nnx.avg_pool(wide, window, strides, pairs)
    return (y / jnp.asarray(sizes[None, ..., None], wide.dtype)).astype(x.dtype)
