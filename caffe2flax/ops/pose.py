"""Layers of real-time pose estimation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def resize_cubic(
    x: Array, size: tuple[int, int], cuts: Sequence[tuple[int, int]] | None = None
) -> Array:
    """The mean of the images in x (N, H, W, C), each enlarged by cubics: (1, *size, C).

    `cuts` are the rows and columns that each image loses at both ends.
    """
    cuts = cuts or [(0, 0)] * x.shape[0]
    scales = []
    for image, (down, across) in zip(x, cuts, strict=True):
        rows = cubic_weights(x.shape[1], size[0], down)
        columns = cubic_weights(x.shape[2], size[1], across)
        high = jnp.tensordot(jnp.asarray(rows, x.dtype), image, 1)
        wide = jnp.tensordot(high, jnp.asarray(columns, x.dtype), ((1,), (1,)))
        scales.append(wide.transpose(0, 2, 1))
    return jnp.mean(jnp.stack(scales), 0, keepdims=True)


def cubic_weights(extent: int, size: int, cut: int) -> np.ndarray:
    """How each of `size` entries follows from `extent` without `cut` at either end."""
    held = extent - 2 * cut
    place = (np.arange(size) + 0.5) * held / size - 0.5
    low = np.maximum((place + 1e-5).astype(int), 0)
    t = place - low
    factors = [
        (-0.5 * t + 1) * t * t - 0.5 * t,
        (1.5 * t - 2.5) * t * t + 1,
        (-1.5 * t + 2) * t * t + 0.5 * t,
        (0.5 * t - 0.5) * t * t,
    ]
    weights = np.zeros((size, extent))
    for step, factor in enumerate(factors, -1):
        at = np.clip(low + step, 0, held - 1) + cut
        np.add.at(weights, (np.arange(size), at), factor)
    return weights


def find_peaks(x: Array, parts: int, peaks: int, threshold: float) -> Array:
    """Peaks on the first maps of x (1, C, H, W): (1, parts, peaks + 1, 3).

    Row 0 is their number, 0, 0; others are x, y and value of a peak, in order of its
    place, or 0. A peak exceeds the threshold and its neighbours; its place is the mean
    of the 7 x 7 pixels around it, weighed by what is positive.
    """
    _, _, height, width = x.shape
    maps = x[0, :parts]
    around = jnp.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=jnp.inf)
    steps = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    beside = [around[:, i : i + height, j : j + width] for i, j in steps]
    is_peak = (maps > threshold) & (maps > jnp.stack(beside).max(0))
    flat = is_peak.reshape(parts, height * width)
    index = jax.vmap(lambda m: jnp.flatnonzero(m, size=peaks, fill_value=-1))(flat)
    values = jnp.take_along_axis(maps.reshape(flat.shape), index, 1)
    offset = jnp.arange(-3, 4)
    ys = (index // width)[..., None, None] + offset.reshape(1, 1, 7, 1)
    xs = (index % width)[..., None, None] + offset.reshape(1, 1, 1, 7)
    start = (jnp.arange(parts) * height)[:, None, None, None]
    # A row below the last is one of the next map.
    place = (start + ys) * width + xs
    known = (ys > 0) & (ys < width) & (xs > 0) & (xs < width) & (place < x.size)
    near = x.reshape(-1)[jnp.where(known, place, 0)]
    weight = jnp.where(known, jnp.maximum(near, 0), 0)
    total = weight.sum((-2, -1))
    total = jnp.where(total > 0, total, 1)
    rows = [(weight * z.astype(x.dtype)).sum((-2, -1)) / total for z in (xs, ys)]
    table = jnp.where(index[..., None] < 0, 0, jnp.stack([*rows, values], -1))
    count = flat.sum(1).astype(x.dtype)
    first = jnp.pad(count[:, None, None], ((0, 0), (0, 0), (0, 2)))
    return jnp.concatenate([first, table], 1)[None]
