"""Learned factors and offsets."""

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Scale(nnx.Module):
    """x * scale + bias; `broadcast` lists the axes of x that the two lack."""

    def __init__(
        self,
        shape: tuple[int, ...],
        broadcast: tuple[int, ...] = (),
        *,
        use_bias: bool = True,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        self.broadcast = broadcast
        self.scale = nnx.Param(scale_init(rngs.params(), shape, jnp.float32))
        bias = bias_init(rngs.params(), shape, jnp.float32) if use_bias else None
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x: Array) -> Array:
        y = x * jnp.expand_dims(self.scale[...], self.broadcast).astype(x.dtype)
        if self.bias is None:
            return y
        return y + jnp.expand_dims(self.bias[...], self.broadcast).astype(x.dtype)


class Bias(nnx.Module):
    """x + bias; `broadcast` lists the axes of x that bias lacks."""

    def __init__(
        self,
        shape: tuple[int, ...],
        broadcast: tuple[int, ...] = (),
        *,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        self.broadcast = broadcast
        self.bias = nnx.Param(bias_init(rngs.params(), shape, jnp.float32))

    def __call__(self, x: Array) -> Array:
        return x + jnp.expand_dims(self.bias[...], self.broadcast).astype(x.dtype)
