"""Activations that Caffe's forks added."""

import jax.numpy as jnp
from jax import Array


def capped_relu(x: Array, negative_slope: float, threshold: float) -> Array:
    """x where positive, else negative_slope * x, at most threshold."""
    return jnp.minimum(jnp.where(x > 0, x, negative_slope * x), threshold)


def hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    """alpha * x + beta between 0 and 1."""
    return jnp.clip(alpha * x + beta, 0, 1)


def scaled_elu(x: Array, alpha: float, scale: float) -> Array:
    """scale * x where x is positive, else scale * alpha * (exp(x) - 1)."""
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


def thresholded_relu(x: Array, alpha: float) -> Array:
    """x where it exceeds alpha, else 0."""
    return jnp.where(x > alpha, x, jnp.zeros_like(x))


def negative_relu(x: Array, slope: float) -> Array:
    """min(x, 0) + slope * max(x, 0)."""
    return jnp.minimum(x, 0) + slope * jnp.maximum(x, 0)


def at_most(x: Array, limit: Array) -> Array:
    """min(x, m), m the first number of `limit`, where that is positive; otherwise x."""
    most = limit.reshape(-1)[0].astype(x.dtype)
    return jnp.minimum(x, jnp.where(most > 0, most, jnp.inf))
