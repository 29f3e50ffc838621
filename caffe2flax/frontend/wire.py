"""The protobuf wire format, walked in place: where each field of a message stands.

Nothing is decoded here but varints, no memory is taken in proportion to a declared
length, and no nesting recurses: what a hostile file declares is checked against the
bytes that are there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from caffe2flax.errors import ConversionError, Kind, Problem, Span
from caffe2flax.files.bounded import is_pipe, not_opened
from caffe2flax.files.mapped import Mapped

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)

Buffer = bytes | Mapped

MAX_VARINT = 10
"""Bytes of the longest varint, one of 64 bits."""

MAX_TAG = 2**32 - 1

MAX_DEPTH = 100
"""Groups within groups, protobuf's own limit."""

MAX_ITER = 2**31 - 1
"""Caffe counts updates in a C++ int."""

FIRST_RUN = 64
"""Values looked at first for a run of unpacked ones; doubled while the run goes on."""

LONGEST_LOOK = 2**20


class WireField(NamedTuple):
    """One field, or a run of equal unpacked fixed-width ones.

    number, wire: of the tag.
    offset: of the tag.
    start, end: of the payload; of a run, from its first value to the end of its last.
    value: of a varint, unsigned; 0 elsewhere.
    times, stride: values of a fixed-width run and the bytes from one to the next.
    """

    number: int
    wire: int
    offset: int
    start: int
    end: int
    value: int = 0
    times: int = 1
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Wire:
    """The bytes of one file, with the name that its errors carry."""

    path: str
    data: Buffer = field(repr=False)

    @classmethod
    def map(cls, path: str | os.PathLike[str]) -> Wire:
        """A file's bytes, mapped read-only: nothing is read before it is looked at.

        Raises ConversionError if it cannot be opened, is empty or no regular file.
        """
        name = os.fspath(path)
        span = Span(name)
        try:
            # A pipe or a device could block or never end.
            if is_pipe(name):
                text = (
                    "this is no regular file but a pipe or a device, and weights are "
                )
                text += "read in any order: save them to a file"
                raise ConversionError(Problem(text, span))
            with open(name, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise ConversionError(Problem("the file is empty, at byte 0", span))
                data = Mapped.of(file.fileno(), name)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            text = not_opened(name, reason)
            raise ConversionError(Problem(text, span)) from error
        return cls(name, data)

    def check_size(self) -> None:
        """Raises ConversionError if the file changed since it was mapped."""
        if isinstance(self.data, Mapped):
            self.data.check()

    def problem(self, message: str, offset: int, kind: Kind | None = None) -> Problem:
        return Problem(f"{message} at byte {offset}", Span(self.path), kind)

    def error(
        self, message: str, offset: int, kind: Kind | None = None
    ) -> ConversionError:
        return ConversionError(self.problem(message, offset, kind))

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """The unsigned varint at `start` and the offset behind it.

        Raises ConversionError where it runs past `end` or is longer than ten bytes.
        """
        value = shift = 0
        data = self.data
        for at in range(start, min(end, start + MAX_VARINT)):
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at + 1
            shift += 7
        if end - start >= MAX_VARINT:
            raise self.error("varint of more than 10 bytes", start)
        raise self.error("the data ends inside a varint", start)

    def text(self, found: WireField) -> str:
        """The string that a field holds; bytes that are no UTF-8 survive as escapes."""
        return bytes(self.data[found.start : found.end]).decode(
            "utf-8", "backslashreplace"
        )

    def fields(self, start: int, end: int) -> Iterator[WireField]:
        """The fields of the message between two offsets, in the order of the file.

        Raises ConversionError with the offset where the bytes are no message.
        """
        at = start
        while at < end:
            found = self._field(at, end)
            if found.wire == END_GROUP:
                raise self.error(f"end of group {found.number} without a start", at)
            if found.wire == GROUP:
                found = self._group(found, end)
                at = self._behind(found)
            else:
                at = found.end
            yield found

    def _field(self, at: int, end: int) -> WireField:
        tag, start = self.varint(at, end)
        number, wire = tag >> 3, tag & 7
        if not number or tag > MAX_TAG:
            raise self.error(f"field number {number}", at)
        if wire == BYTES:
            length, start = self.varint(start, end)
            if length > end - start:
                raise self.error(
                    f"field {number} declares {length} bytes, {end - start} are left",
                    at,
                )
            return WireField(number, wire, at, start, start + length)
        if wire == VARINT:
            value, behind = self.varint(start, end)
            return WireField(number, wire, at, start, behind, value)
        if wire in (FIXED32, FIXED64):
            width = 4 if wire == FIXED32 else 8
            if width > end - start:
                raise self.error(f"the data ends inside field {number}", at)
            count = 1
            if start == at + 1 and start + width < end:
                count = self._run(at, width + 1, end)
            behind = at + count * (start - at + width)
            return WireField(
                number, wire, at, start, behind, 0, count, start - at + width
            )
        if wire in (GROUP, END_GROUP):
            return WireField(number, wire, at, start, start)
        raise self.error(
            f"field {number} has wire type {wire}, which does not exist", at
        )

    def _run(self, at: int, stride: int, end: int) -> int:
        """How many fields of `stride` bytes with the tag at `at` stand side by side.

        The look-ahead doubles with the run that was found, so short runs stay cheap
        and the whole stays linear.
        """
        tag = self.data[at]
        whole = (end - at) // stride
        count, look = 1, FIRST_RUN
        if whole < 2 or self.data[at + stride] != tag:
            return 1
        while count < whole:
            look = min(look, whole - count)
            first = at + count * stride
            taken = self.data[first : first + (look - 1) * stride + 1]
            tags = np.frombuffer(taken, np.uint8)[::stride]
            other = np.flatnonzero(tags != tag)
            if other.size:
                return count + int(other[0])
            count += look
            look = min(2 * look, LONGEST_LOOK)
        return count

    def _group(self, opening: WireField, end: int) -> WireField:
        """A group's field with the extent of its contents, nested groups included."""
        open_numbers = [opening.number]
        at = opening.start
        while at < end:
            found = self._field(at, end)
            if found.wire == GROUP:
                open_numbers.append(found.number)
                if len(open_numbers) > MAX_DEPTH:
                    raise self.error(f"more than {MAX_DEPTH} groups are nested", at)
            elif found.wire == END_GROUP:
                expected = open_numbers.pop()
                if found.number != expected:
                    raise self.error(
                        f"end of group {found.number} where group {expected} is open",
                        at,
                    )
                if not open_numbers:
                    return opening._replace(end=at)
            at = found.end
        raise self.error(f"group {opening.number} has no end", opening.offset)

    def _behind(self, group: WireField) -> int:
        return self.varint(group.end, len(self.data))[1]


def signed(value: int) -> int:
    """A varint read as int32 or int64: two's complement in 64 bits."""
    return value - 2**64 if value >= 2**63 else value
