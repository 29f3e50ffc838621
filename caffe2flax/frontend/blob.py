"""One BlobProto -> one array, in every way that Caffe and its forks write them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend.wire import BYTES, Wire, WireField, signed

Array = NDArray[np.floating]

MAX_AXES = 32

MAX_COUNT = 2**59
"""Values beyond which numpy could not address a float64 array, empty or not."""

MAX_FIELD = 16
"""No field of a BlobProto has a higher number, and a mean file not as many fields."""

MAX_PIECES = 1024
"""Pieces of values that are kept apart before they are copied together."""

MAX_NOTES = 64

RAW_TYPES: dict[int, np.dtype[np.floating]] = {
    0: np.dtype("<f8"),
    1: np.dtype("<f4"),
    2: np.dtype("<f2"),
}
"""NVCaffe's `raw_data_type`; its integer types hold no weights."""

NVCAFFE = "written by NVCaffe"
"""How a note says so; it matters, as its BatchNorm stores other blobs than Caffe's."""

RAW_NOTE = f"blobs hold raw_data: {NVCAFFE}"
C3D_NOTE = "blobs have five axes in C3D's own layout"


class Values:
    """Where the values of a repeated fixed-width field stand: one piece, or several."""

    def __init__(self, wire: Wire, dtype: np.dtype[np.floating]) -> None:
        self.wire, self.dtype = wire, dtype
        self.pieces: list[WireField] = []
        self.copied = bytearray()
        self.count = 0

    def add(self, found: WireField, what: str) -> None:
        """Takes a packed chunk or a run of unpacked values."""
        width = self.dtype.itemsize
        if found.wire == BYTES:
            length = found.end - found.start
            if length % width:
                raise self.wire.error(
                    f"{what}: {length} bytes of packed values of {width} bytes",
                    found.offset,
                )
            found = found._replace(times=length // width, stride=width)
        if not found.times:
            return
        self.count += found.times
        self.pieces.append(found)
        if len(self.pieces) > MAX_PIECES:
            self._copy()

    def array(self) -> Array:
        """The values in order: a view of the file where they stand in one piece."""
        if len(self.pieces) == 1 and not self.copied:
            return self._view(self.pieces[0])
        self._copy()
        return np.frombuffer(bytes(self.copied), self.dtype)

    def _copy(self) -> None:
        for piece in self.pieces:
            self.copied += loaded(self._view(piece)).tobytes()
        self.pieces.clear()

    def _view(self, piece: WireField) -> Array:
        return np.ndarray(
            (piece.times,), self.dtype, self.wire.data, piece.start, (piece.stride,)
        )


@dataclass(slots=True)
class _Parts:
    """What a BlobProto says, before it is held together."""

    floats: Values
    doubles: Values
    legacy: dict[int, int] = field(default_factory=dict)
    shape: list[WireField] = field(default_factory=list)
    width: int | None = None
    raw_type: int | None = None
    raw: WireField | None = None


def is_blob(wire: Wire) -> bool:
    """Whether all of a file is one BlobProto, with values."""
    size = len(wire.data)
    try:
        for count, found in enumerate(wire.fields(0, size)):
            if found.number > MAX_FIELD or count > MAX_FIELD:
                return False  # before a file of a million layers is walked
        return read_blob(wire, 0, size, "mean", Counter()).size > 1
    except ConversionError:
        return False


def read_blob(
    wire: Wire, start: int, end: int, what: str, notes: Counter[str]
) -> Array:
    """The array of the BlobProto between two offsets, read-only, in the file's shape.

    `what` opens the messages ("layer 'conv1' blob 0"); `notes` gathers oddities.
    Where a blob carries several kinds of values, NVCaffe's raw ones count before
    doubles, and doubles before floats; legacy dimensions count before `shape`: so does
    Caffe.

    Raises ConversionError where the shape is none, or does not match the values.
    """
    parts = _scan(wire, start, end, what, notes, data=5)
    numbers = [1, 2, 3, 4]
    if parts.width is not None and not parts.floats.count:
        # C3D 1.0 put a length before the height, which moved what follows by one.
        parts = _scan(wire, start, end, what, notes, data=6)
        parts.legacy[5] = parts.width or 0
        numbers.append(5)
        note(notes, C3D_NOTE)
    if parts.legacy:
        shape = tuple(parts.legacy.get(number, 0) for number in numbers)
    else:
        shape = _dims(wire, parts.shape, what)
    if parts.raw is not None and parts.raw_type is not None:
        values = _raw(wire, parts.raw, parts.raw_type, what)
        note(notes, RAW_NOTE)
    else:
        values = parts.doubles if parts.doubles.count else parts.floats
    _check(wire, shape, values.count, what, start)
    array = values.array().reshape(shape)
    array.flags.writeable = False
    return array


def note(notes: Counter[str], text: str) -> None:
    """Counts an oddity; a file cannot make the list of them long."""
    if text in notes or len(notes) < MAX_NOTES:
        notes[text] += 1


def _scan(
    wire: Wire, start: int, end: int, what: str, notes: Counter[str], data: int
) -> _Parts:
    parts = _Parts(Values(wire, np.dtype("<f4")), Values(wire, np.dtype("<f8")))
    for found in wire.fields(start, end):
        match found.number, found.wire:
            case (1 | 2 | 3 | 4) as number, 0:
                parts.legacy[number] = signed(found.value)
            case number, (2 | 5) if number == data:
                parts.floats.add(found, what)
            case 5, 0:
                parts.width = signed(found.value)
            case 7, 2:
                # Read once it is known that these are no gradients of C3D's.
                if found.start < found.end and len(parts.shape) <= MAX_AXES:
                    parts.shape.append(found)
            case 8, (1 | 2):
                parts.doubles.add(found, what)
            case 10, 0:
                parts.raw_type = found.value
            case 12, 2:
                parts.raw = found
            case ((6 | 7 | 9), _):
                continue  # gradients
            case ((11 | 13), _) if parts.raw_type is not None:
                continue  # gradients in half precision
            case number, kind:
                note(notes, f"BlobProto field {number} of wire type {kind} is not read")
    return parts


def _dims(wire: Wire, shapes: list[WireField], what: str) -> tuple[int, ...]:
    """The dimensions of a BlobShape, packed or not, in one part or in several."""
    dims: list[int] = []
    for shape in shapes:
        for found in wire.fields(shape.start, shape.end):
            match found.number, found.wire:
                case 1, 0:
                    dims.append(signed(found.value))
                case 1, 2:
                    at = found.start
                    while at < found.end and len(dims) <= MAX_AXES:
                        dim, at = wire.varint(at, found.end)
                        dims.append(signed(dim))
            if len(dims) > MAX_AXES:
                raise wire.error(f"{what}: more than {MAX_AXES} axes", shape.offset)
    return tuple(dims)


def _raw(wire: Wire, raw: WireField, raw_type: int, what: str) -> Values:
    if raw_type not in RAW_TYPES:
        raise wire.error(f"{what}: raw_data of type {raw_type}", raw.offset)
    values = Values(wire, RAW_TYPES[raw_type])
    values.add(raw, what)
    return values


def _check(
    wire: Wire, shape: tuple[int, ...], count: int, what: str, offset: int
) -> None:
    if any(dim < 0 for dim in shape):
        raise wire.error(f"{what}: negative dimension in shape {shape}", offset)
    if math.prod(max(dim, 1) for dim in shape) > MAX_COUNT:
        raise wire.error(f"{what}: shape {shape} is too large", offset)
    if math.prod(shape) != count:
        raise wire.error(
            f"{what}: shape {shape} has {math.prod(shape)} values, "
            f"but {count} are stored",
            offset,
        )
