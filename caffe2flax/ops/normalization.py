"""Local response normalization."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.pooling import avg_pool


def lrn(
    x: Array,
    *,
    size: int,
    alpha: float,
    beta: float,
    k: float = 1.0,
    axis: int = -1,
) -> Array:
    """x * (k + alpha / size * sum of x^2 over `size` neighbours along `axis`)^-beta.

    The neighbourhood is centred, so size is odd; zeros stand beyond both ends.
    """
    wide = np.promote_types(x.dtype, np.float32)
    axis = axis % x.ndim
    pads = [
        (size // 2 * (i == axis), size // 2 * (i == axis), 0) for i in range(x.ndim)
    ]

    @jax.custom_vjp
    def neighbours(y: Array) -> Array:
        padded = lax.pad(y, jnp.zeros((), y.dtype), pads)
        length = y.shape[axis]
        slices = [lax.slice_in_dim(padded, i, i + length, 1, axis) for i in range(size)]
        return sum(slices[1:], slices[0])

    # A centred sum is its own transpose; XLA's transpose of slices is 4 times slower.
    neighbours.defvjp(lambda y: (neighbours(y), None), lambda _, g: (neighbours(g),))

    scale = k + alpha / size * neighbours(jnp.square(x.astype(wide)))
    return (x.astype(wide) * inverse_power(scale, beta)).astype(x.dtype)


def lrn_within_channel(x: Array, *, size: int, alpha: float, beta: float) -> Array:
    """x * (1 + alpha * mean of x^2 over size x size pixels around)^-beta.

    x is (N, *spatial, C), size is odd; the zeros beyond its edges count in the mean.
    """
    rank = x.ndim - 2
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    mean = avg_pool(jnp.square(wide), (size,) * rank, (1,) * rank, (size // 2,) * rank)
    return (wide * inverse_power(1 + alpha * mean, beta)).astype(x.dtype)


def inverse_power(x: Array, beta: float) -> Array:
    """x^-beta; for 3/4 by roots, which XLA runs 5 times faster on CPU."""
    if beta != 0.75:
        return x**-beta
    root = lax.rsqrt(x)
    return root * jnp.sqrt(root)
