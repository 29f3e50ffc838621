"""The windows of an array (N, *spatial, C) as slices of it."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax


def pad_spatial(
    x: Array,
    value: float | Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> Array:
    """x (N, *spatial, C) with `value` around, as padding asks for such windows.

    Raises:
        ValueError: a window exceeds the padded x.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    pads = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = lax.pad(x, jnp.asarray(value, x.dtype), pads)
    if any(size < w for size, w in zip(x.shape[1:-1], window, strict=True)):
        raise ValueError(f"a window of {tuple(window)} exceeds {x.shape}, padded")
    return x


def window_slices(x: Array, window: int, stride: int, axis: int) -> list[Array]:
    """For every w in the window, x[i * stride + w] over all i of an axis."""
    span = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, w, w + span, stride, axis) for w in range(window)]
