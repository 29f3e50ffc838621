"""Learned factors and offsets."""

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Scale(nnx.Module):
    """x * scale + bias; `broadcast` lists the axes of x that the two lack."""

    def __init__(
        self,
        shape: tuple[int, ...],
        broadcast: tuple[int, ...],
        *,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.broadcast = broadcast
        self.scale = nnx.Param(jnp.ones(shape))
        self.bias = nnx.Param(jnp.zeros(shape)) if use_bias else None

    def __call__(self, x: Array) -> Array:
        y = x * jnp.expand_dims(self.scale[...], self.broadcast).astype(x.dtype)
        if self.bias is None:
            return y
        return y + jnp.expand_dims(self.bias[...], self.broadcast).astype(x.dtype)
