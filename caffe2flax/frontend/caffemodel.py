"""Weight files -> arrays: V0, V1, V2 and HDF5 snapshots, and mean files.

Only what holds in every version of Caffe's schema is read: names, types and blobs.
Parameter messages are stepped over, for forks give their numbers other meanings; the
architecture comes from the prototxt, or from `caffe2flax.frontend.schema`.
The file is mapped and its tensors are views into the map.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from caffe2flax.errors import ConversionError, Problem, broken_by_default
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend.blob import NVCAFFE, Array, is_blob, note, read_blob
from caffe2flax.frontend.sniff import HDF5_MAGIC, explained
from caffe2flax.frontend.wire import Wire, WireField
from caffe2flax.limits import current

Version = Literal["V0", "V1", "V2", "HDF5"]

BLOBS_A_LAYER = 4
"""Blobs that the limit of layers allows each of them, on average."""

MAX_PROBLEMS = 50

MAX_SHOWN = 80

V1_TYPES = {
    1: "Accuracy", 2: "BNLL", 3: "Concat", 4: "Convolution", 5: "Data", 6: "Dropout",
    7: "EuclideanLoss", 8: "Flatten", 9: "HDF5Data", 10: "HDF5Output", 11: "Im2col",
    12: "ImageData", 13: "InfogainLoss", 14: "InnerProduct", 15: "LRN",
    16: "MultinomialLogisticLoss", 17: "Pooling", 18: "ReLU", 19: "Sigmoid",
    20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 24: "WindowData",
    25: "Eltwise", 26: "Power", 27: "SigmoidCrossEntropyLoss", 28: "HingeLoss",
    29: "MemoryData", 30: "ArgMax", 31: "Threshold", 32: "DummyData", 33: "Slice",
    34: "MVN", 35: "AbsVal", 36: "Silence", 37: "ContrastiveLoss", 38: "Exp",
    39: "Deconvolution",
}  # fmt: skip
"""V1LayerParameter.LayerType -> the type's name in V2; 0 is NONE."""

LAYER_FIELDS = {*range(1, 12), *range(100, 149)}
V1_FIELDS = {*range(1, 43), 1001, 1002} - {28}
V0_FIELDS = {*range(1, 23), *range(50, 66), 1001} - {57}


@dataclass(frozen=True, slots=True)
class LayerBlobs:
    """One layer of a weights file.

    name: the layer's, as Caffe matches it.
    type: the V2 type ("Convolution"), for a V1 file the V2 name of its enum (a fork's
        own number as digits), for a V0 file its string ("conv"); "" where absent.
    blobs: read-only float16, float32 or float64 arrays in Caffe's axis order and the
        shape that the file gives: V0 and V1 write (1, 1, 1, out) for a bias.
    offset: of the layer in the file.
    numbers: which blob of the layer each is, where an HDF5 file has not all of them.
    """

    name: str
    type: str
    blobs: tuple[Array, ...] = field(repr=False)
    offset: int
    numbers: tuple[int, ...] = ()

    @property
    def numbered(self) -> dict[int, Array]:
        """The blobs by their numbers in the layer."""
        numbers = self.numbers or range(len(self.blobs))
        return dict(zip(numbers, self.blobs, strict=True))


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A weights file: its layers in the order of the file, without Caffe's own Splits.

    notes: what an expert would want to know, such as a fork's traces.
    size: bytes of the file when it was mapped.
    """

    path: str
    version: Version
    net_name: str
    layers: tuple[LayerBlobs, ...]
    notes: tuple[str, ...] = ()
    size: int = 0
    wire: Wire | None = field(default=None, repr=False, compare=False)

    def check(self) -> None:
        """Raises ConversionError if the file changed since it was mapped. What was read
        before is whole where this does not raise."""
        if self.wire is not None:
            self.wire.check_size()


@broken_by_default()
def read(path: str | os.PathLike[str]) -> WeightFile:
    """The blobs of every layer of a weights file, as views into the mapped file.

    Raises ConversionError naming the byte where the file is no such file: truncated,
    shapes that do not match their values, another format altogether.
    """
    wire = Wire.map(path)
    if wire.data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        file = _read_hdf5(wire)
    else:
        try:
            file = _Reader(wire).net()
        except ConversionError as error:
            raise explained(wire, error, mean=is_blob(wire)) from None
    file.check()
    return file


def read_binaryproto(path: str | os.PathLike[str]) -> Array:
    """The array of a mean file (a bare BlobProto), read-only, usually (1, C, H, W).

    Raises ConversionError naming the byte where the file is no such file.
    """
    return binaryproto(Wire.map(path))


def binaryproto(wire: Wire) -> Array:
    """`read_binaryproto` of bytes that are at hand."""
    try:
        if not wire.data:
            raise wire.error("the file is empty,", 0)
        mean = read_blob(wire, 0, len(wire.data), "mean", Counter())
        if not mean.size:
            raise wire.error("the file holds no values", 0)
        mean = loaded(mean)
        mean.flags.writeable = False
    except ConversionError as error:
        raise explained(wire, error, "mean") from None
    wire.check_size()
    return mean


def _read_hdf5(wire: Wire) -> WeightFile:
    from caffe2flax.frontend.hdf5 import read_hdf5

    layers = tuple(
        LayerBlobs(name, "", tuple(blobs.values()), offset, tuple(blobs))
        for name, blobs, offset in read_hdf5(wire)
    )
    size = len(wire.data)
    return WeightFile(wire.path, "HDF5", "", layers, size=size, wire=wire)


class _Reader:
    """Walks one NetParameter; collects what is wrong and what is odd on the way."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.problems: list[Problem] = []
        self.odd: Counter[str] = Counter()
        self.nvcaffe = False
        self.blobs = 0
        self.limits = current()
        self.v0 = False

    def net(self) -> WeightFile:
        wire = self.wire
        name = ""
        layers: list[LayerBlobs] = []
        first: dict[int, int] = {}
        for found in wire.fields(0, len(wire.data)):
            match found.number, found.wire:
                case 1, 2:
                    name = wire.text(found)
                case (100 | 2) as number, 2:
                    first.setdefault(number, found.offset)
                    layer = self.layer(found) if number == 100 else self.v1_layer(found)
                    # What Caffe itself inserts where a blob has several readers.
                    if layer.type.lower() != "split" or layer.blobs:
                        layers.append(layer)
                case _:
                    continue
            if len(layers) > self.limits.layers:
                text = self.limits.refusal("layers", "the file holds more layers")
                raise wire.error(f"{text},", found.offset, "unsupported")
        if len(first) == 2:
            raise wire.error(
                "the file holds both `layer` and `layers`, which Caffe refuses",
                max(first.values()),
            )
        if self.problems:
            raise ConversionError(self.problems)
        if not first:
            raise wire.error("the file holds no layers", 0)
        version: Version = "V2" if 100 in first else "V0" if self.v0 else "V1"
        return WeightFile(
            wire.path,
            version,
            name,
            tuple(layers),
            self.notes(),
            len(wire.data),
            wire,
        )

    def layer(self, message: WireField) -> LayerBlobs:
        name = type = ""
        blobs: list[WireField] = []
        math_fields = 0
        for found in self.wire.fields(message.start, message.end):
            match found.number, found.wire:
                case 1, 2:
                    name = self.wire.text(found)
                case 2, 2:
                    type = self.wire.text(found)
                case 7, 2:
                    blobs.append(found)
                    self.check_blobs(len(blobs), found.offset)
                case ((145 | 146 | 147 | 148), 0):
                    math_fields += 1
                case number, _:
                    self.strange("LayerParameter", number, LAYER_FIELDS)
        self.nvcaffe |= math_fields > 1
        return self.made(name, type, blobs, message.offset)

    def v1_layer(self, message: WireField) -> LayerBlobs:
        """A layer of V1, or one of V0: that stands inside, as field 1.

        The parameters of V0 belong to the inner message; a reader that wrote them
        into the outer one exists too, and is believed where the inner has none.
        """
        name = type = ""
        outer: list[WireField] = []
        inner: list[WireField] = []
        for found in self.wire.fields(message.start, message.end):
            match found.number, found.wire:
                case 1, 2:
                    self.v0 = True
                    for part in self.wire.fields(found.start, found.end):
                        match part.number, part.wire:
                            case 1, 2:
                                name = self.wire.text(part)
                            case 2, 2:
                                type = self.wire.text(part)
                            case 50, 2:
                                inner.append(part)
                                self.check_blobs(len(inner), part.offset)
                            case number, _:
                                self.strange("V0LayerParameter", number, V0_FIELDS)
                case 4, 2:
                    name = name or self.wire.text(found)
                case 5, 0:
                    type = type or self.v1_type(found.value)
                case 6, 2:
                    outer.append(found)
                    self.check_blobs(len(outer), found.offset)
                case number, _:
                    self.strange("V1LayerParameter", number, V1_FIELDS)
        return self.made(name, type, inner or outer, message.offset)

    def v1_type(self, value: int) -> str:
        if value == 0:
            return ""
        if value not in V1_TYPES:
            note(self.odd, f"layer type number {value} is a fork's own")
        return V1_TYPES.get(value, str(value))

    def made(
        self, name: str, type: str, blobs: list[WireField], offset: int
    ) -> LayerBlobs:
        arrays: list[Array] = []
        self.blobs += len(blobs)
        self.check_blobs(0, offset)
        for index, found in enumerate(blobs):
            what = f"layer {shown(name)} blob {index}"
            try:
                arrays.append(
                    read_blob(self.wire, found.start, found.end, what, self.odd)
                )
            except ConversionError as error:
                self.problems.extend(error.problems)
            if len(self.problems) >= MAX_PROBLEMS:
                raise ConversionError(self.problems)
        return LayerBlobs(name, type, tuple(arrays), offset)

    def check_blobs(self, more: int, offset: int) -> None:
        """Raises ConversionError for more blobs than the layers can have."""
        if self.blobs + more > self.limits.layers * BLOBS_A_LAYER:
            text = self.limits.refusal("layers", "the file holds blobs for more layers")
            raise self.wire.error(f"{text},", offset, "unsupported")

    def strange(self, message: str, number: int, known: set[int]) -> None:
        if number not in known:
            note(self.odd, f"{message} field {number} is a fork's own and not read")

    def notes(self) -> tuple[str, ...]:
        if self.nvcaffe:
            note(self.odd, f"layers carry forward and backward types: {NVCAFFE}")
        return tuple(
            f"{text} ({count} times)" if count > 1 else text
            for text, count in self.odd.items()
        )


def shown(name: str) -> str:
    """A name for a message: quoted, and cut where it is endless."""
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...")
