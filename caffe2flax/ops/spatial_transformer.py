"""The spatial transformer; x is (N, H, W, C)."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def spatial_transform(
    x: Array,
    theta: Array,
    size: tuple[int, int],
    *,
    fixed: Mapping[int, float] | None = None,
) -> Array:
    """x seen through theta, six numbers of an affine map less those in `fixed`.

    The map leads from the rows and columns of a top of `size` to those of x, both from
    -1 to 1; what lies beyond the edges of x is 0.
    """
    n, height, width, channels = x.shape
    known = fixed or {}
    wide = theta.reshape(n, -1).astype(np.promote_types(theta.dtype, np.float32))
    free = iter(range(6 - len(known)))
    entries = [
        jnp.full((n,), known[k], wide.dtype) if k in known else wide[:, next(free)]
        for k in range(6)
    ]
    affine = jnp.stack(entries, 1).reshape(n, 2, 3, 1, 1)
    i, j = (jnp.arange(s, dtype=wide.dtype) / s * 2 - 1 for s in size)
    sides = (
        affine[:, :, 0] * i.reshape(1, 1, -1, 1),
        affine[:, :, 1] * j.reshape(1, 1, 1, -1),
    )
    place = (sides[0] + sides[1] + affine[:, :, 2] + 1) / 2
    down, right = place[:, 0] * height, place[:, 1] * width
    above, left = (lax.stop_gradient(jnp.floor(p)) for p in (down, right))
    flat = x.reshape(n, height * width, channels)

    def corner(m: Array, k: Array) -> Array:
        weight = (1 - jnp.abs(down - m)) * (1 - jnp.abs(right - k))
        inside = (m >= 0) & (m < height) & (k >= 0) & (k < width)
        row, column = jnp.where(inside, m, 0), jnp.where(inside, k, 0)
        index = (row * width + column).astype(jnp.int32).reshape(n, -1, 1)
        found = jnp.take_along_axis(flat, index, 1).reshape(n, *size, channels)
        return jnp.where(inside, weight, 0)[..., None].astype(x.dtype) * found

    upper = corner(above, left) + corner(above, left + 1)
    return upper + corner(above + 1, left) + corner(above + 1, left + 1)
