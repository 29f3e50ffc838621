"""Distances to learned points, and blobs of unit length."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


class Points(nnx.Module):
    """A learned point in each row."""

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        value_init: nnx.Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        self.value = nnx.Param(value_init(rngs.params(), shape))

    def __call__(self) -> Array:
        return self.value[...]


def distances(
    x: Array,
    points: Array,
    *,
    axis: int = 1,
    absolute: bool = False,
    unit: bool = False,
) -> Array:
    """Sum over the axes from `axis` on of (x - p)^2 for each of the points (P, ...).

    `absolute`: of |x - p|. `unit`: points are divided by their length first.
    """
    wide = np.promote_types(x.dtype, np.float32)
    rows = points.reshape(points.shape[0], -1).astype(wide)
    if unit:
        total = jnp.square(rows).sum(1, keepdims=True)
        rows = rows * lax.rsqrt(total + 1e-6)
    lead = x.shape[:axis]
    apart = x.astype(wide).reshape(*lead, 1, -1) - rows.reshape(
        (1,) * len(lead) + rows.shape
    )
    total = (jnp.abs(apart) if absolute else jnp.square(apart)).sum(-1)
    return total.astype(x.dtype)


def unit_items(x: Array) -> Array:
    """Each item of x divided by the root of (1e-7 + its sum of squares)."""
    axes = tuple(range(1, x.ndim))
    return x * lax.rsqrt(jnp.square(x).sum(axes, keepdims=True) + 1e-7)
