"""Mutations of a caffemodel: of its fields, so that the messages around stay valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.wireformat import varint

BYTES = 2
LONGEST_VARINT = 10
VALUES = (
    *(0, 1, 2, 3, 4, 5, 31, 32, 33, 100, 127, 128, 2**14, 2**20, 2**28, 2**31 - 1),
    *(2**31, 2**32 - 1, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
NUMBERS = (*range(13), 50, 100, 101, 106, 117, 145, 146, 147, 1001, 2**29 - 1)
PAYLOADS = (
    *(
        b"",
        b"\0",
        b"\xff",
        b"abc",
        b"Convolution",
        b"Split",
        b"\xff\xfe\0",
        b"\x80" * 11,
    ),
    *(b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff" * 8, b"\x08\x01" * 40),
    *(b"\x0b" * 300, b"\x3a\x00" * 500, b"\x0d\0\0\0\0" * 80, b"\n" * 64),
)


@dataclass(slots=True)
class Part:
    """A field: `value` is a number, bytes, or the fields of a message. `said` is a
    wrong length that it declares, if any; `wide` makes its tag longer."""

    number: int
    wire: int
    value: int | bytes | list[Part]
    said: int | None = None
    wide: bool = False

    def encoded(self) -> bytes:
        tag = varint(self.number << 3 | self.wire)
        if self.wide:
            tag = tag[:-1] + bytes([tag[-1] | 0x80, 0])
        value = self.value
        if isinstance(value, int):
            return tag + varint(value)
        payload = value if isinstance(value, bytes) else encoded(value)
        if self.wire != BYTES:
            return tag + payload
        return tag + varint(len(payload) if self.said is None else self.said) + payload


def encoded(parts: list[Part]) -> bytes:
    return b"".join(part.encoded() for part in parts)


def parsed(data: bytes, depth: int = 0) -> list[Part] | None:
    """The fields of a message, as deep as they are messages; None where it is none."""
    parts: list[Part] = []
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        number, wire = tag >> 3, tag & 7
        if at < 0 or not number or wire not in (0, 1, 2, 5):
            return None
        if wire == 0:
            value, at = _number(data, at)
            if at < 0:
                return None
            parts.append(Part(number, wire, value))
            continue
        length = 8 if wire == 1 else 4
        if wire == BYTES:
            length, at = _number(data, at)
        if at < 0 or at + length > len(data):
            return None
        payload = data[at : at + length]
        inner = None
        if wire == BYTES and payload and depth < 5 and number != 5:
            inner = parsed(payload, depth + 1)
        parts.append(Part(number, wire, payload if inner is None else inner))
        at += length
    return parts


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint and the offset behind it, which is -1 where there is none."""
    value = 0
    for i in range(at, min(len(data), at + LONGEST_VARINT)):
        value |= (data[i] & 0x7F) << 7 * (i - at)
        if data[i] < 0x80:
            return value, i + 1
    return 0, -1


def mutated(data: bytes, others: list[bytes], random: Random) -> bytes:
    """`data` after a few changes, some with parts of `others`."""
    parts = parsed(data)
    if parts is None or random.random() < 0.25:
        return mutated_bytes(data, others, random)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        every = [*_messages(parts)]
        within = random.choice(every)
        if within:
            random.choice(_CHANGES)(within, random)
        elif other := parsed(random.choice(others)):
            within.append(random.choice(other))
    data = encoded(parts)
    return mutated_bytes(data, others, random) if random.random() < 0.1 else data


def _messages(parts: list[Part]) -> list[list[Part]]:
    found = [parts]
    for message in found:
        found += [part.value for part in message if isinstance(part.value, list)]
    return found


def _scalar(parts: list[Part], random: Random) -> None:
    part = random.choice(parts)
    if isinstance(part.value, int):
        part.value = random.choice((*VALUES, part.value + 1, max(part.value - 1, 0)))
    elif isinstance(part.value, bytes):
        part.value = random.choice((*PAYLOADS, part.value[:-1], part.value + b"\0"))


def _renumber(parts: list[Part], random: Random) -> None:
    random.choice(parts).number = random.choice(NUMBERS)


def _retype(parts: list[Part], random: Random) -> None:
    """Another wire type with the same payload."""
    random.choice(parts).wire = random.randrange(8)


def _lie(parts: list[Part], random: Random) -> None:
    part = random.choice(parts)
    if part.wire == BYTES and not isinstance(part.value, int):
        part.said = len(Part(1, BYTES, part.value).encoded()) + random.randint(-9, 9)
        part.said = random.choice((part.said, part.said, *VALUES))
        part.said = max(part.said, 0)


def _drop(parts: list[Part], random: Random) -> None:
    parts.pop(random.randrange(len(parts)))


def _repeat(parts: list[Part], random: Random) -> None:
    at = random.randrange(len(parts))
    parts[at:at] = [parts[at]] * random.choice((1, 1, 2, 40))


def _swap(parts: list[Part], random: Random) -> None:
    random.shuffle(parts)


def _unpack(parts: list[Part], random: Random) -> None:
    """Packed values one by one, or each in a chunk of its own."""
    at = random.randrange(len(parts))
    part = parts[at]
    if not isinstance(part.value, bytes) or part.wire != BYTES:
        return
    width, wire = random.choice(((4, 5), (8, 1), (4, BYTES), (1, BYTES)))
    values = [part.value[i : i + width] for i in range(0, len(part.value), width)]
    parts[at : at + 1] = [Part(part.number, wire, value) for value in values]


def _widen(parts: list[Part], random: Random) -> None:
    random.choice(parts).wide = True


def _nest(parts: list[Part], random: Random) -> None:
    """A message in itself, or in a group."""
    at = random.randrange(len(parts))
    part = parts[at]
    if random.random() < 0.5:
        parts[at] = Part(part.number, BYTES, [part])
        return
    parts.insert(at, Part(part.number, 3, b""))
    if random.random() < 0.8:
        parts.insert(at + 2, Part(part.number, 4, b""))


_Change = Callable[[list[Part], Random], None]
_CHANGES: tuple[_Change, ...] = (
    *(_scalar, _scalar, _scalar, _renumber, _renumber, _retype, _lie, _lie, _drop),
    *(_drop, _repeat, _repeat, _swap, _unpack, _widen, _nest),
)


def mutated_bytes(data: bytes, others: list[bytes], random: Random) -> bytes:
    """`data` after random changes of bytes."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(out) + 1)
        match random.randrange(7):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 2 if at < len(out):
                out[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            case 3:
                del out[at:]
            case 4:
                del out[at : at + random.choice((1, 2, 4, 16, 100))]
            case 5:
                out[at:at] = random.randbytes(random.choice((1, 2, 4, 16)))
            case _:
                other = random.choice(others)
                start = random.randrange(len(other) + 1)
                out[at:at] = other[start : start + random.choice((4, 16, 64, 300))]
    return bytes(out)
