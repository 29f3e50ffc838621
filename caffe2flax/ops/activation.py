"""Activations whose derivatives at their kinks are Caffe's."""

import jax.numpy as jnp
from flax import nnx
from jax import Array


def leaky_relu(x: Array, negative_slope: float) -> Array:
    """x where positive, else negative_slope * x, also in its derivative at 0."""
    return jnp.where(x > 0, x, negative_slope * x)


def absolute(x: Array) -> Array:
    """|x|; its derivative at 0 is 0."""
    return x * jnp.sign(x)


def clip(x: Array, low: float, high: float) -> Array:
    """max(min(x, high), low); its derivative at both ends is 1."""
    x = jnp.where(x > high, high, x)
    return jnp.where(x >= low, x, low)


def scaled_swish(x: Array, beta: float) -> Array:
    """x * sigmoid(beta * x)."""
    return x * nnx.sigmoid(beta * x)


def exceeds(x: Array, threshold: float) -> Array:
    """1 where x > threshold, else 0."""
    return (x > threshold).astype(x.dtype)


class PReLU(nnx.Module):
    """x where positive, else slope * x; `broadcast` are the axes of x that it lacks."""

    def __init__(
        self,
        shape: tuple[int, ...] = (),
        broadcast: tuple[int, ...] = (),
        *,
        slope_init: nnx.Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        init = slope_init or nnx.initializers.constant(0.25)
        self.broadcast = broadcast
        self.negative_slope = nnx.Param(init(rngs.params(), shape, jnp.float32))

    def __call__(self, x: Array) -> Array:
        slope = jnp.expand_dims(self.negative_slope[...], self.broadcast)
        return jnp.where(x > 0, x, slope.astype(x.dtype) * x)
