"""Losses of region-based detectors."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def smooth_l1_loss(
    a: Array,
    b: Array,
    inside: Array | None = None,
    outside: Array | None = None,
    *,
    sigma: float = 1.0,
) -> Array:
    """Mean over n of the sum of outside * f(inside * (a - b)), the weights 1 if None.

    f(d) is (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). All are
    (N, ...); the weights get no gradient.
    """
    wide = np.promote_types(a.dtype, np.float32)
    d = a.astype(wide) - b.reshape(a.shape).astype(wide)
    if inside is not None:
        d = lax.stop_gradient(inside).reshape(a.shape).astype(wide) * d
    square = sigma * sigma
    f = jnp.where(
        jnp.abs(d) < 1 / square, 0.5 * square * d * d, jnp.abs(d) - 0.5 / square
    )
    if outside is not None:
        f = lax.stop_gradient(outside).reshape(a.shape).astype(wide) * f
    return f.sum() / a.shape[0]
