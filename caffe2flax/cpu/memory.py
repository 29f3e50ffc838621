"""Arrays of JAX in memory that is read soonest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGE = 2**22
"""Bytes from which NumPy asks the system for huge pages; XLA does not ask for any.
Weights that are read once for each call are read a third sooner from them."""

LINE = 64
"""Bytes of a line of the cache. JAX takes an array that starts with one as it is, and
copies others into memory of XLA's."""


def own_copy(array: Any) -> jax.Array:
    """An array that nobody else writes to: JAX's as it is, a copy of NumPy's."""
    return array if isinstance(array, jax.Array) else copied(np.asarray(array))


def placed(array: Any) -> jax.Array:
    """An array that nobody else writes to, where it is read soonest."""
    if isinstance(array, jax.Array) and not is_large(array):
        return array
    return copied(np.asarray(array))


def copied(array: np.ndarray) -> jax.Array:
    """A copy in NumPy's memory."""
    room = np.empty(array.nbytes + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    own = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    own[...] = array
    with jax.ensure_compile_time_eval():
        return jax.device_put(own)


def is_large(array: Any) -> bool:
    """Whether it is of numbers, and takes several huge pages."""
    plain = not jnp.issubdtype(array.dtype, jax.dtypes.extended)
    return plain and bool(array.nbytes >= LARGE)
