"""A separate wire encoder, so that tests do not compare our code with itself."""

from __future__ import annotations

import struct


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def integer(number: int, value: int) -> bytes:
    return tag(number, 0) + varint(value)


def chunk(number: int, *parts: bytes | str) -> bytes:
    payload = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
    return tag(number, 2) + varint(len(payload)) + payload


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def doubles(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def singly(number: int, values: tuple[float, ...], wire: int = 5) -> bytes:
    """Unpacked values: a tag before each."""
    pack = floats if wire == 5 else doubles
    return b"".join(tag(number, wire) + pack(value) for value in values)


def dims(*values: int) -> bytes:
    return chunk(7, chunk(1, *(varint(value) for value in values)))


def legacy(*values: int) -> bytes:
    return b"".join(integer(n, value) for n, value in enumerate(values, 1))


def layer(*blobs: bytes, name: str = "fc", type: str = "InnerProduct") -> bytes:
    body = [chunk(1, name), chunk(2, type), *(chunk(7, blob) for blob in blobs)]
    return chunk(100, *body)


def group(number: int, *parts: bytes) -> bytes:
    return tag(number, 3) + b"".join(parts) + tag(number, 4)
