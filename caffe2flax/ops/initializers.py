"""Caffe's weight fillers that JAX has no initializer for.

Each returns an initializer `(key, shape, dtype) -> Array` of a kernel in Flax's axis
order, so `axis` says where Caffe's axis 0 stands in it: last in the kernels of
`nnx.Conv` and `nnx.Linear`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def uniform_between(low: float, high: float) -> nnx.Initializer:
    """U(low, high)."""

    def init(
        key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


def gaussian(mean: float, std: float) -> nnx.Initializer:
    """N(mean, std^2)."""

    def init(
        key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        return mean + std * jax.random.normal(key, shape, dtype)

    return init


def sparse_gaussian(
    mean: float, std: float, sparse: int, axis: int = -1
) -> nnx.Initializer:
    """N(mean, std^2) with probability sparse / shape[axis], else 0."""

    def init(
        key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        values, coins = jax.random.split(key)
        kept = jax.random.bernoulli(coins, sparse / shape[axis], shape)
        drawn = mean + std * jax.random.normal(values, shape, dtype)
        return jnp.where(kept, drawn, 0)

    return init


def positive_unitball(axis: int = -1) -> nnx.Initializer:
    """U(0, 1), divided by its sum over all axes but `axis`."""

    def init(
        key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        drawn = 1 - jax.random.uniform(key, shape, dtype)  # (0, 1]: no sum is 0
        others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
        return drawn / drawn.sum(others, keepdims=True)

    return init


def bilinear(axes: tuple[int, int] = (0, 1)) -> nnx.Initializer:
    """The same bilinear interpolation over the spatial `axes` for all channels:
    t(y) t(x) with t(i) = 1 - |i / f - (k - 1) / 2f|, f = ceil(k / 2)."""

    def init(
        key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        size = shape[axes[0]]
        factor = -(-size // 2)
        steps = jnp.arange(size, dtype=dtype) / factor
        tent = 1 - jnp.abs(steps - (size - 1) / (2 * factor))
        sides = (i for i in range(len(shape)) if i not in axes)
        plane = jnp.expand_dims(jnp.outer(tent, tent), tuple(sides))
        return jnp.broadcast_to(plane, shape)

    return init
