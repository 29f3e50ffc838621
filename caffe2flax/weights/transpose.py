"""Copies of large arrays whose axes are in another order."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.files.mapped import mapping_of, transfer

Array = NDArray[Any]

BLOCK = 32
"""Columns that are transposed at a time: their rows stay in the cache."""

LARGE = 1 << 20
"""Elements from which a copy is worth a second thread."""


def in_order(array: Array) -> Array:
    """`array` itself where it is contiguous and in memory, else such a copy."""
    if array.flags.c_contiguous and mapping_of(array) is None:
        return array
    made = _empty(array)
    copy_blocked(made, array)
    return made


def _empty(like: Array) -> Array:
    """Room at the start of a page, where JAX takes an array as it is instead of copying
    it; not in huge pages, for which the system may have to clear up first."""
    if not like.nbytes:
        return np.empty(like.shape, like.dtype)
    room = mmap.mmap(-1, like.nbytes)
    return np.frombuffer(room, like.dtype).reshape(like.shape)


def copy_blocked(target: Array, source: Array) -> None:
    """target[...] = source, some columns at a time where `source` is transposed: numpy
    alone would walk through all of its memory once for each cache line."""
    mapped = mapping_of(source)
    rank = source.ndim
    if source.size < LARGE or rank < 2 or source.flags.c_contiguous:
        if mapped is None:
            target[...] = source
        else:
            transfer(target, source, mapped)
        return

    def part(first: int, last: int) -> None:
        if mapped is not None:
            transfer(target[..., first:last], source[..., first:last], mapped)
            return
        for i in range(first, last, BLOCK):
            columns = slice(i, min(i + BLOCK, last))
            target[..., columns] = source[..., columns]

    width = source.shape[-1]
    half = width // 2 // BLOCK * BLOCK
    if not half:
        part(0, width)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        for finished in (pool.submit(part, 0, half), pool.submit(part, half, width)):
            finished.result()
