"""A mapped file of weights, without a crash if the file is truncated meanwhile.

Reading a page of a mapped file that was truncated ends the process with SIGBUS. So the
map only provides addresses, for views of any size that cost nothing; the bytes
themselves are read from the file, which raises an error instead.
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
"""The size of the block that is kept for reading bytes one after the other."""

STAGE = 2**22
"""How many bytes are copied at a time from the file to an array: they fit into the
cache."""

ROWS = 32
"""How many rows of a transposed matrix are copied at a time, to write whole cache
lines."""


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
        """The file of an open descriptor, which the caller closes. Raises OSError, and
        ValueError for an empty file."""
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
        """Fills `buffer` from `offset` on. Raises ConversionError where the file was
        truncated since it was mapped, or cannot be read."""
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
        if type(key) is int and 0 <= key - start < len(block):
            return block[key - start]
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            assert step == 1, "bytes are read as they stand"
            if start <= first and last <= start + len(block):
                return block[first - start : last - start]
            if last - first > BLOCK:
                return self.bytes_at(first, last)
            return self._block(first)[: max(0, last - first)]
        if not 0 <= key < len(self):
            raise IndexError(key)
        return self._block(key)[0]

    def _block(self, start: int) -> bytes:
        block = self.bytes_at(start, min(start + BLOCK, len(self)))
        self._kept = start, block
        return block


def _state(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


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
    ConversionError where the file was truncated."""
    mapped = mapping_of(array)
    if mapped is None:
        return array
    copy = np.empty(array.shape, array.dtype)
    transfer(copy, array, mapped)
    return copy


def blocks(array: Array, count: int) -> Iterator[Array]:
    """The values of `array` in C order, `count` at a time; a block is valid until the
    next. Raises ConversionError where the file was truncated."""
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

    Raises ConversionError where the file was truncated.
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
    """The number of bytes from the first element to the end of the last."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(high - low)
