"""Blobs that no input goes into."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike


class Parameter(nnx.Module):
    """A learned array, given back as it is."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.value = nnx.Param(jnp.zeros(shape))
        self.dtype = dtype

    def __call__(self) -> Array:
        return self.value[...].astype(self.dtype or self.value[...].dtype)


def filled(
    shape: tuple[int, ...], init: Callable[..., Array], *, rngs: nnx.Rngs | None
) -> Array:
    """Random numbers of `init`: new ones at every call, or the same without `rngs`."""
    key = jax.random.key(0) if rngs is None else rngs()
    return init(key, shape)
