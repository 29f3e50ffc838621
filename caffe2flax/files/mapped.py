"""A file of weights in memory, and no crash where somebody cuts it meanwhile.

Touching a page of a mapped file that was cut ends the process with SIGBUS. So the map
only lends its addresses, for views of any size that cost nothing; every byte that is
looked at is read from the file, which gives an error instead.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.system import read_at

Array = NDArray[Any]

BLOCK = 2**16
"""Bytes that are kept for a reader that looks at one after the other."""

STAGE = 2**22
"""Bytes that are on their way from the file to where they go: they stay in the
cache."""

ROWS = 32
"""Rows of a transposed matrix at a time: whole cache lines are written then."""


class Mapped(mmap.mmap):
    """A regular file, mapped read-only; `data[i]` and `data[i:j]` are read from it."""

    path: str
    descriptor: int
    origin: int
    """The address of the first byte."""
    _state: tuple[int, int]
    _kept: tuple[int, bytes] = (0, b"")

    @classmethod
    def of(cls, descriptor: int, path: str) -> Self:
        """The file behind an open descriptor, which stays the caller's. OSError,
        ValueError where it is empty."""
        mapped = cls(descriptor, 0, access=mmap.ACCESS_READ)
        mapped.path = path
        mapped.descriptor = os.dup(descriptor)
        weakref.finalize(mapped, os.close, mapped.descriptor)
        mapped.origin = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        mapped._state = _state(mapped.descriptor)
        return mapped

    def check(self) -> None:
        """Raises ConversionError if the file changed since it was mapped."""
        before, now = self._state, _state(self.descriptor)
        if now[0] != before[0]:
            text = f"the file went from {before[0]} to {now[0]} bytes while it was read"
            raise ConversionError(Problem(text, Span(self.path)))
        if now != before:
            text = "the file was written to while it was read"
            raise ConversionError(Problem(text, Span(self.path)))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills `buffer` from `offset` on. Raises ConversionError where the file ends
        before, which it did not when it was mapped, or cannot be read."""
        done = 0
        while done < len(buffer):
            try:
                count = read_at(self.descriptor, buffer[done:], offset + done)
            except OSError as error:
                text = f"cannot be read: {error.strerror}"
                raise ConversionError(Problem(text, Span(self.path))) from error
            if not count:
                self.check()
                text = f"the file ended at byte {offset + done} while it was read"
                raise ConversionError(Problem(text, Span(self.path)))
            done += count

    def bytes_at(self, start: int, end: int) -> bytes:
        block = bytearray(end - start)
        self.read_into(memoryview(block), start)
        return bytes(block)

    def __getitem__(self, key: Any) -> Any:
        start, block = self._kept
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            assert step == 1, "bytes are read as they stand"
            if start <= first and last <= start + len(block):
                return block[first - start : last - start]
            if last - first > BLOCK:
                return self.bytes_at(first, last)
            return self._block(first)[: max(0, last - first)]
        if not start <= key < start + len(block):
            if not 0 <= key < len(self):
                raise IndexError(key)
            return self._block(key)[0]
        return block[key - start]

    def _block(self, start: int) -> bytes:
        block = self.bytes_at(start, min(start + BLOCK, len(self)))
        self._kept = start, block
        return block


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def mapping_of(array: Array) -> Mapped | None:
    """The file that an array is a view of, if any."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, Mapped) else None


def loaded(array: Array) -> Array:
    """`array` itself, or a copy of it where it is a view of a file. Raises
    ConversionError where that was cut."""
    mapped = mapping_of(array)
    if mapped is None:
        return array
    copy = np.empty(array.shape, array.dtype)
    transfer(copy, array, mapped)
    return copy


def blocks(array: Array, count: int) -> Iterator[Array]:
    """The values of `array` in C order, `count` at a time, each block to be done with
    before the next. Raises ConversionError where their file was cut."""
    flat = array.reshape(-1)
    mapped = mapping_of(array)
    if mapped is None or not flat.flags.c_contiguous:
        for i in range(0, flat.size, count):
            yield loaded(flat[i : i + count])
        return
    buffer = np.empty(min(count, flat.size), flat.dtype)
    offset = flat.__array_interface__["data"][0] - mapped.origin
    for i in range(0, flat.size, count):
        block = buffer[: flat.size - i]
        mapped.read_into(block.data.cast("B"), offset + i * flat.itemsize)
        yield block


def transfer(target: Array, source: Array, mapped: Mapped) -> None:
    """target[...] = source, a view of `mapped`, some bytes of the file at a time.

    Raises ConversionError where the file was cut.
    """
    if source.size:
        _transfer(target, source, mapped, bytearray(min(STAGE, _span(source))))


def _transfer(target: Array, source: Array, mapped: Mapped, stage: bytearray) -> None:
    span = _span(source)
    if span <= len(stage):
        low = np.lib.array_utils.byte_bounds(source)[0]
        mapped.read_into(memoryview(stage)[:span], low - mapped.origin)
        start = source.__array_interface__["data"][0] - low
        target[...] = np.ndarray(
            source.shape, source.dtype, stage, start, source.strides
        )
        return
    pairs = zip(source.strides, source.shape, strict=True)
    strides = [abs(stride) if extent > 1 else 0 for stride, extent in pairs]
    axis = max(range(source.ndim), key=strides.__getitem__)
    source, target = np.moveaxis(source, axis, 0), np.moveaxis(target, axis, 0)
    rows = max(1, (len(stage) - _span(source[0])) // strides[axis] + 1)
    if rows > ROWS:
        rows -= rows % ROWS
    for i in range(0, len(source), rows):
        _transfer(target[i : i + rows], source[i : i + rows], mapped, stage)


def _span(array: Array) -> int:
    """Bytes from the first to behind the last."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(high - low)
