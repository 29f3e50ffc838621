"""Caffe's messages as bytes: records of databases, and mean files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from caffe2flax.training.library.image import decode


def wire_number(message: bytes, at: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    number = 0
    for i, byte in enumerate(message[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, at + i + 1
    raise ValueError(f"no number at byte {at}")


def wire_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of protobuf: (number, int or bytes)."""
    at = 0
    while at < len(message):
        tag, at = wire_number(message, at)
        if tag & 7 == 0:
            value, at = wire_number(message, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7, -1)
        if tag & 7 == 2:
            size, at = wire_number(message, at)
        if not 0 <= size <= len(message) - at:
            raise ValueError(f"no field at byte {at}")
        yield tag >> 3, message[at : at + size]
        at += size


def read_datum(record: bytes, color: bool | None = None) -> tuple[Any, int]:
    """The image of a Datum (height, width, channels), and its label. `color`: an
    encoded one becomes B, G, R (True) or gray (False), None leaves it as it is."""
    numbers, data, floats = dict.fromkeys((1, 2, 3, 5, 7), 0), b"", b""
    for field, value in wire_fields(record):
        if field == 4 and isinstance(value, bytes):
            data = value
        elif field == 6 and isinstance(value, bytes):
            floats += value
        elif field in numbers and isinstance(value, int):
            numbers[field] = value
    *shape, label, encoded = numbers.values()
    label = (label + 2**31) % 2**32 - 2**31
    if encoded:
        return decode(data, color), label
    values = np.frombuffer(data, np.uint8) if data else np.frombuffer(floats, "<f4")
    if not values.size or values.size != math.prod(shape):
        raise ValueError(f"{values.size} values for {shape} channels, rows and columns")
    return values.reshape(shape).transpose(1, 2, 0), label


def read_mean(path: str) -> Any:
    """The mean image of a .binaryproto (height, width, channels)."""
    legacy, shape, values = [0] * 4, list[int](), {5: b"", 8: b""}
    for field, value in wire_fields(Path(path).read_bytes()):
        if isinstance(value, int) and 1 <= field <= 4:
            legacy[field - 1] = value
        elif isinstance(value, bytes) and field in values:
            values[field] += value
        elif isinstance(value, bytes) and field == 7:
            for _, dims in wire_fields(value):
                at = 0
                while isinstance(dims, bytes) and at < len(dims):
                    dim, at = wire_number(dims, at)
                    shape.append(dim)
                if isinstance(dims, int):
                    shape.append(dims)
    floats, doubles = (np.frombuffer(values[k], t) for k, t in ((5, "<f4"), (8, "<f8")))
    mean = (doubles if doubles.size else floats).astype(np.float32)
    channels, height, width = (legacy if any(legacy) else [1, 1, 1, *shape])[-3:]
    if not mean.size or mean.size != channels * height * width:
        raise ValueError(f"{path}: {mean.size} values for {channels, height, width}")
    return mean.reshape(channels, height, width).transpose(1, 2, 0)
