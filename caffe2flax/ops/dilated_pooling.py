"""Pooling of pixels that are `dilation` apart. x is (N, *spatial, C)."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def dilated_max_pool(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> Array:
    """The largest of the pixels of each window; the lowest float where it has none."""
    lowest = float(np.finfo(np.float32).min)
    y = reduce_windows(x, True, window, strides, padding, dilation)
    return jnp.maximum(y, jnp.asarray(lowest, x.dtype))


def dilated_ave_pool(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> Array:
    """The mean of the pixels of each window: those of the padding count as 0, as far as
    it is as wide as the low padding; what is beyond does not count."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    sums = reduce_windows(wide, False, window, strides, padding, dilation)
    counts = np.ones(())
    for n, out, k, s, d, (low, _) in zip(
        x.shape[1:-1],
        sums.shape[1:-1],
        window,
        strides,
        dilation,
        padding,
        strict=True,
    ):
        places = np.arange(out)[:, None] * s - low + np.arange(k) * d
        counts = np.multiply.outer(counts, (places < n + low).sum(1))
    divisor = jnp.asarray(counts[None, ..., None], wide.dtype)
    y: Array = sums / divisor
    return y.astype(x.dtype)


def reduce_windows(
    x: Array,
    largest: bool,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> Array:
    """The largest of each window, or the sum."""
    found: Array = lax.reduce_window(
        x,
        jnp.asarray(-jnp.inf if largest else 0, x.dtype),
        lax.max if largest else lax.add,
        window_dimensions=(1, *window, 1),
        window_strides=(1, *strides, 1),
        padding=((0, 0), *padding, (0, 0)),
        window_dilation=(1, *dilation, 1),
    )
    return found
