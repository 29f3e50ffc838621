"""Images at other places; x is (N, H, W, C)."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def pixel_grid(x: Array) -> Array:
    """The column and the row of each pixel of x, (N, H, W, 2)."""
    n, height, width, _ = x.shape
    rows, columns = jnp.indices((height, width), x.dtype)
    return jnp.broadcast_to(jnp.stack([columns, rows], -1), (n, height, width, 2))


def warp(x: Array, places: Array, *, within: bool = False) -> Array:
    """x at `places` (N, H, W, 2: column, row), between four pixels, 0 beyond the edges.

    `within`: a place that does not lie between pixels of x is 0.
    """
    n, height, width, channels = x.shape
    places = places.astype(np.promote_types(places.dtype, np.float32))
    low = lax.stop_gradient(jnp.floor(places))
    far = (places - low)[..., None]
    flat = x.reshape(n, height * width, channels)
    total = jnp.zeros((), x.dtype)
    for down in (0, 1):
        for right in (0, 1):
            i, j = low[..., 1] + down, low[..., 0] + right
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            index = jnp.where(inside, i * width + j, 0).astype(jnp.int32)
            pixels = jnp.take_along_axis(flat, index.reshape(n, -1, 1), 1)
            b = far[:, :, :, 1] if down else 1 - far[:, :, :, 1]
            a = far[:, :, :, 0] if right else 1 - far[:, :, :, 0]
            share = jnp.where(inside[..., None], a * b, 0).astype(x.dtype)
            total = total + share * pixels.reshape(x.shape)
    if not within:
        return total
    last = np.array([width - 1, height - 1], places.dtype).reshape(1, 1, 1, 2)
    between = ((places >= 0) & (places <= last)).all(-1, keepdims=True)
    return jnp.where(between, total, 0)


def exp_max(x: Array, *, scale: float = 1.0, shift: float = 0.0) -> Array:
    """exp(scale * (x - max) + shift), the largest of the channels taken away."""
    return jnp.exp(scale * (x - x.max(-1, keepdims=True)) + shift)


def _besides(axis: int) -> tuple[int, ...]:
    """The other axes of an image."""
    return tuple(other for other in range(4) if other != axis)


def crop_between(x: Array, size: tuple[int, int]) -> Array:
    """The middle of x in another size, between pixels where it has to be; FlowNet2
    reads no place behind the last but 1.05."""
    for axis, new in enumerate(size, 1):
        old = x.shape[axis]
        place = np.clip(np.arange(new) + (old - new) / 2, 0, old - np.float32(1.05))
        low = place.astype(int)
        share = jnp.asarray(np.expand_dims(place - low, _besides(axis)), x.dtype)
        x = (1 - share) * jnp.take(x, low, axis) + share * jnp.take(x, low + 1, axis)
    return x


def downsample(x: Array, size: tuple[int, int]) -> Array:
    """x in a smaller size: means weighted by tents over corner-aligned places. NaN are
    left out; where they weigh more than the rest, the top is NaN."""
    known = ~jnp.isnan(x)
    sums, weight = jnp.where(known, x, 0), known.astype(x.dtype)
    total = jnp.ones((), x.dtype)
    for axis, new in enumerate(size, 1):
        old = x.shape[axis]
        step = (old - 1) / (new - 1)
        far = np.abs(np.arange(new)[:, None] * step - np.arange(old))
        tents = jnp.asarray(np.maximum(1 - far / step, 0), x.dtype)
        sums, weight = (
            jnp.moveaxis(jnp.tensordot(tents, y, ((1,), (axis,))), 0, axis)
            for y in (sums, weight)
        )
        total = total * jnp.expand_dims(tents.sum(1), _besides(axis))
    lost = 2 * weight < total
    return jnp.where(lost, jnp.nan, sums / jnp.where(lost, 1, weight))
