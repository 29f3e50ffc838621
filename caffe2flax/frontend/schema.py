"""The architecture that a `.caffemodel` carries beside its weights -> Message.

Forks gave the numbers of LayerParameter other meanings. So the type of a layer decides
which of its parameter messages are decoded, and what else it carries is listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.frontend.blob import is_blob
from caffe2flax.frontend.caffemodel import V1_TYPES
from caffe2flax.frontend.descriptors import PARAMS, FieldSpec, schema
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.sniff import (
    HDF5_MAGIC,
    HDF5_NAMES,
    WANTED,
    explained,
    is_keras,
)
from caffe2flax.frontend.wire import BYTES, FIXED32, FIXED64, VARINT, Wire, WireField
from caffe2flax.frontend.wire import signed as signed64
from caffe2flax.limits import current

MAX_SKIPPED = 64

COMMON = frozenset(range(1, 12)) | {100, 101}
"""LayerParameter's numbers below the first parameter message, and the two of those
that belong to no one type: `transform_param` and `loss_param`. No fork moved these."""

V1_COMMON = frozenset({*range(1, 9), 32, 33, 35, 36, 42, 1001, 1002})

BLOBS = {"LayerParameter": 7, "V1LayerParameter": 6, "V0LayerParameter": 50}


@dataclass(frozen=True, slots=True)
class Architecture:
    """net: a NetParameter without blobs, as its prototxt would read, in the file's own
    version of the format. skipped: what else the file carries, a line for each kind."""

    net: Message
    skipped: tuple[str, ...]


def field_names(message: str) -> tuple[str, ...]:
    """A message's fields by number; KeyError if Caffe has no such message."""
    fields = schema().messages[message]
    return tuple(fields[number].name for number in sorted(fields))


def architecture(path: str | os.PathLike[str]) -> Message:
    """`read_architecture(path).net`."""
    return read_architecture(path).net


def read_architecture(path: str | os.PathLike[str]) -> Architecture:
    """All of a `.caffemodel` but its tensors, which are stepped over.

    Enum values come out as words, or as numbers where Caffe has no word for them; a
    field that Caffe does not have, inside of a message that it does, has its number
    for a name. Spans carry the file only.

    Raises ConversionError where the bytes are no such file.
    """
    wire = Wire.map(path)
    if wire.data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        message = "an HDF5 snapshot holds no architecture; give its prototxt too"
        if is_keras(wire.data[:HDF5_NAMES]):
            message = f"this is an HDF5 file of Keras; {WANTED['net']}"
        raise ConversionError(Problem(message, Span(wire.path)))
    decoder = _Decoder(wire)
    try:
        net = decoder.net()
    except ConversionError as error:
        raise explained(wire, error, "net", mean=is_blob(wire)) from None
    wire.check_size()
    skipped = (f"{what}, in {', '.join(at)}" for what, at in decoder.skipped.items())
    return Architecture(net, tuple(skipped))


class _Decoder:
    """Decodes one file. Messages nest as deep as the schema does, which is not deep."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.span = Span(wire.path)
        self.schema = schema()
        self.skipped: dict[str, list[str]] = {}
        self.count = 0
        self.limits = current()

    def net(self) -> Message:
        top = list(self.fields(0, len(self.wire.data)))
        layers = {found.number for found in top if found.wire == BYTES} & {2, 100}
        if len(layers) != 1:
            what = (
                "both `layer` and `layers`, which Caffe refuses,"
                if layers
                else "no layers"
            )
            raise self.wire.error(f"the file holds {what}", 0)
        return self.message("NetParameter", self.known("NetParameter", top, "the net"))

    def message(self, name: str, parts: Iterable[WireField]) -> Message:
        """A message from its fields, which may come from several extents: those of a
        message given twice are merged, and of a single value the last one counts."""
        specs = self.schema.messages[name]
        values: dict[int, list[Field]] = {}
        merged: dict[int, list[WireField]] = {}
        for found in parts:
            spec = specs.get(found.number)
            if spec is None or not _fits(spec, found):
                self.add(values, found.number, str(found.number), self.foreign(found))
            elif spec.type != "message":
                for scalar in self.scalars(spec, found):
                    if not spec.repeated:
                        values.pop(found.number, None)
                    self.add(values, found.number, spec.name, scalar)
            elif spec.repeated:
                self.add(values, found.number, spec.name, self.inner(spec, [found]))
            else:
                merged.setdefault(found.number, []).append(found)
                values.setdefault(found.number, [])
        for number, extents in merged.items():
            spec = specs[number]
            self.add(values, number, spec.name, self.inner(spec, extents))
        return Message(
            tuple(f for fields in values.values() for f in fields), self.span
        )

    def add(
        self,
        values: dict[int, list[Field]],
        number: int,
        name: str,
        value: Scalar | Message,
    ) -> None:
        values.setdefault(number, []).append(Field(name, value, self.span))
        self.counted(0)

    def counted(self, offset: int) -> None:
        self.count += 1
        if self.count > self.limits.fields:
            text = self.limits.refusal("fields", "the net has more fields and values")
            raise self.wire.error(f"{text},", offset, "unsupported")

    def fields(self, start: int, end: int) -> Iterator[WireField]:
        for found in self.wire.fields(start, end):
            self.counted(found.offset)
            yield found

    def inner(self, spec: FieldSpec, extents: Iterable[WireField]) -> Message:
        parts = [p for e in extents for p in self.fields(e.start, e.end)]
        if spec.refers in BLOBS:
            parts = self.of_layer(spec.refers, parts)
        return self.message(spec.refers, parts)

    def of_layer(self, message: str, parts: list[WireField]) -> list[WireField]:
        """The fields of a layer that are Caffe's own and fit its type; no blobs."""
        parts = [part for part in parts if part.number != BLOBS[message]]
        if message == "V0LayerParameter":
            return self.known(message, parts, "layers")
        type = ""
        for part in parts:
            if message == "LayerParameter" and part[:2] == (2, BYTES):
                type = self.wire.text(part)
            elif message == "V1LayerParameter" and part[:2] == (5, VARINT):
                type = V1_TYPES.get(part.value, str(part.value))
        own = PARAMS.get(type, ())
        common = COMMON if message == "LayerParameter" else V1_COMMON
        specs = self.schema.messages[message]
        numbers = common | {n for n, spec in specs.items() if spec.name in own}
        return self.known(message, parts, type or "layers without a type", numbers)

    def known(
        self,
        message: str,
        parts: Iterable[WireField],
        where: str,
        numbers: frozenset[int] | None = None,
    ) -> list[WireField]:
        """The fields that are decoded; the others are listed."""
        specs = self.schema.messages[message]
        kept = []
        for part in parts:
            spec = specs.get(part.number)
            fits = spec is not None and _fits(spec, part)
            if fits and (numbers is None or part.number in numbers):
                kept.append(part)
            else:
                name = spec.name if spec and fits else "a fork's own"
                self.skip(f"{message} field {part.number} ({name})", where)
        return kept

    def skip(self, what: str, where: str) -> None:
        """Lists a field; a file cannot make the list long."""
        if what in self.skipped or len(self.skipped) < MAX_SKIPPED:
            places = self.skipped.setdefault(what, [])
            if where not in places and len(places) < MAX_SKIPPED:
                places.append(where)

    def scalars(self, spec: FieldSpec, found: WireField) -> Iterator[Scalar]:
        """The values of a field: one, a packed list or a run of unpacked ones."""
        if spec.type in ("string", "bytes"):
            yield Scalar("string", self.wire.text(found), self.span)
        elif spec.type in ("float", "double"):
            width = 4 if spec.type == "float" else 8
            packed = found.wire == BYTES
            if packed and (found.end - found.start) % width:
                raise self.wire.error(
                    f"{spec.name}: no whole number of values", found.offset
                )
            times = (found.end - found.start) // width if packed else found.times
            stride = width if packed else found.stride
            for at in range(found.start, found.start + times * stride, stride):
                yield self.real(self.wire.data[at : at + width])
        elif found.wire == VARINT:
            yield self.whole(spec, found.value)
        else:
            at = found.start
            while at < found.end:
                value, at = self.wire.varint(at, found.end)
                yield self.whole(spec, value)

    def whole(self, spec: FieldSpec, value: int) -> Scalar:
        if spec.type == "bool":
            return Scalar("word", "true" if value else "false", self.span)
        if spec.type == "uint32":
            return Scalar("number", str(value % 2**32), self.span)
        number = signed64(value)
        if spec.type in ("int32", "enum"):
            number = (number + 2**31) % 2**32 - 2**31
        word = self.schema.enums.get(spec.refers, {}).get(number)
        if word is not None:
            return Scalar("word", word, self.span)
        return Scalar("number", str(number), self.span)

    def real(self, data: bytes) -> Scalar:
        """A float as the shortest text that reads back to it."""
        value = np.frombuffer(data, f"<f{len(data)}")[0]
        return Scalar("number" if np.isfinite(value) else "word", str(value), self.span)

    def foreign(self, found: WireField) -> Scalar:
        """A field that Caffe does not have: enough to show it to whoever reads on."""
        if found.wire == VARINT:
            return Scalar("number", str(found.value), self.span)
        return Scalar("string", f"{found.end - found.start} bytes", self.span)


def _fits(spec: FieldSpec, found: WireField) -> bool:
    """Whether a field's wire type is one that its type is written in."""
    if spec.type in ("string", "bytes", "message"):
        return found.wire == BYTES
    if found.wire == BYTES:
        return spec.repeated
    return found.wire == {"float": FIXED32, "double": FIXED64}.get(spec.type, VARINT)
