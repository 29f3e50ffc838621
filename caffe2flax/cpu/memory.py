"""Arrays of JAX in memory that is read fastest."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGE = 2**22
"""The size in bytes from which NumPy asks the system for huge pages, which XLA does
not. Weights that are read once for each call are read a third faster from them."""

LARGEST = 2**28
"""The size in bytes from which copying an array costs more than calls gain."""

LINE = 64
"""Bytes of a cache line. JAX uses an array that starts at one without a copy, and
copies others into memory of XLA."""


def own_copy(array: Any) -> jax.Array:
    """An array that nobody else writes to: itself if it is JAX's, a copy if NumPy's."""
    return array if isinstance(array, jax.Array) else copied(np.asarray(array))


def placed(array: Any) -> jax.Array:
    """An array in memory that is read fastest. A NumPy array must not be written to
    afterwards."""
    if isinstance(array, jax.Array):
        return copied(np.asarray(array)) if is_large(array) else array
    given = np.asarray(array)
    return on_device(given) if given.ctypes.data % LINE == 0 else copied(given)


def copied(array: np.ndarray) -> jax.Array:
    """A copy in memory that NumPy allocates."""
    own = empty(array.shape, array.dtype)
    own[...] = array
    return on_device(own)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A NumPy array that JAX uses without a copy."""
    length = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(length + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    result: np.ndarray = room[start : start + length].view(dtype).reshape(shape)
    return result


def on_device(array: np.ndarray) -> jax.Array:
    with jax.ensure_compile_time_eval():
        result: jax.Array = jax.device_put(array)
    return result


def is_large(array: jax.Array) -> bool:
    """Whether it is an array of numbers that is large enough for a copy to pay."""
    plain = not jnp.issubdtype(array.dtype, jax.dtypes.extended)
    return plain and LARGE <= array.nbytes < LARGEST
