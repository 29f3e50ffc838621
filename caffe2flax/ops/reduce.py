"""Sums along axes that Caffe's forks name."""

import jax.numpy as jnp
from jax import Array


def absolute_sum(
    x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Sum of absolute values along some axes, or all."""
    return jnp.sum(jnp.abs(x), axis, keepdims=keepdims)


def root_sum_square(
    x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Root of the sum of squares along some axes, or all."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=keepdims))
