"""Arrays of JAX in memory that is read soonest."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGE = 2**22
"""Bytes from which NumPy asks the system for huge pages; XLA does not ask for any.
Weights that are read once for each call are read a third sooner from them."""

LARGEST = 2**28
"""Bytes of arrays of JAX from which copies take longer than calls gain."""

LINE = 64
"""Bytes of a line of the cache. JAX takes an array that starts with one as it is, and
copies others into memory of XLA's."""


def own_copy(array: Any) -> jax.Array:
    """An array that nobody else writes to: JAX's as it is, a copy of NumPy's."""
    return array if isinstance(array, jax.Array) else copied(np.asarray(array))


def placed(array: Any) -> jax.Array:
    """An array where it is read soonest. One of NumPy's is not to be written to any
    more."""
    if isinstance(array, jax.Array):
        return copied(np.asarray(array)) if is_large(array) else array
    given = np.asarray(array)
    return on_device(given) if given.ctypes.data % LINE == 0 else copied(given)


def copied(array: np.ndarray) -> jax.Array:
    """A copy in NumPy's memory."""
    own = empty(array.shape, array.dtype)
    own[...] = array
    return on_device(own)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of NumPy's that JAX takes as it is."""
    length = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(length + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    made: np.ndarray = room[start : start + length].view(dtype).reshape(shape)
    return made


def on_device(array: np.ndarray) -> jax.Array:
    with jax.ensure_compile_time_eval():
        made: jax.Array = jax.device_put(array)
    return made


def is_large(array: jax.Array) -> bool:
    """Whether it is of numbers, and worth a copy."""
    plain = not jnp.issubdtype(array.dtype, jax.dtypes.extended)
    return plain and LARGE <= array.nbytes < LARGEST
