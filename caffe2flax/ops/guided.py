"""Channels that another blob chooses; x is (N, H, W, C)."""

import jax.numpy as jnp
from jax import Array


def guided(x: Array, guidance: Array, *, threshold: float = 0.0) -> Array:
    """x where guidance (N, 1, 1, C) exceeds `threshold`, divided by the share of the
    channels where it does; 0 elsewhere."""
    kept = guidance > threshold
    count = jnp.maximum(kept.sum(-1, keepdims=True), 1)
    return jnp.where(kept, x, 0) * (x.shape[-1] / count).astype(x.dtype)
