"""Rows looked up in a matrix."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike


class BiasedEmbed(nnx.Module):
    """embedding[x] + bias: x (...) of integers gives (..., features), NaN where there
    is no such row."""

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        *,
        embedding_init: nnx.Initializer = nnx.initializers.zeros,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        shape = (num_embeddings, features)
        self.embedding = nnx.Param(embedding_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (features,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        rows = jnp.take(self.embedding[...], x, axis=0, mode="fill")
        y = rows + jnp.expand_dims(self.bias[...], tuple(range(x.ndim)))
        return y.astype(self.dtype or y.dtype)
