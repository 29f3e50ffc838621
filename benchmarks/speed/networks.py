"""The networks that are measured: prototxts, and weights that are the same everywhere.

Random weights keep every activation of the order of 1: numbers that vanish would be
computed at another speed. They are made once and kept in `build/benchmarks`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import read_graph
from caffe2flax.ir.graph import Graph

Array = NDArray[np.float32]

HERE = Path(__file__).resolve().parent.parent
FIXTURES = HERE.parent / "fixtures" / "networks"
WORK = HERE.parent / "build" / "benchmarks"

TITLES = {
    "alexnet": "AlexNet",
    "caffenet": "CaffeNet",
    "googlenet": "GoogLeNet",
    "nin": "NiN",
    "vgg16": "VGG-16",
    "resnet50": "ResNet-50",
    "mobilenet": "MobileNet",
    "squeezenet": "SqueezeNet",
}

CONVERTED = {"lenet": "LeNet"} | TITLES
"""LeNet shows how long `convert` takes to start."""

CLASSIC = ("lenet", "alexnet", "caffenet", "googlenet", "nin", "vgg16", "resnet50")
"""What accelerators are tried with."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network on disk: prototxt (batch 1) and caffemodel."""

    name: str
    prototxt: Path
    weights: Path

    @property
    def title(self) -> str:
        return CONVERTED[self.name]

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Of the input, N, C, H, W."""
        graph = read_graph(self.prototxt)
        _, *others = graph.shapes[graph.arguments[0]]
        channels, height, width = others
        return batch, channels, height, width

    def images(self, batch: int) -> Array:
        """Input (N, C, H, W); at batch 1 the one that Caffe was fed."""
        images: Array = _seeded().seeded_input("data", self.shape(batch))
        return images

    def recorded(self) -> Array | None:
        """The output (1, classes) that Caffe computed at batch 1, where it is known."""
        path = FIXTURES / f"{self.name}.npz"
        if not path.exists():
            return None
        with np.load(path) as archive:
            found: Array = archive["prob:full"].reshape(1, -1)
        return found


def prototxt(name: str) -> Path:
    """The prototxt of a network, by its name in TITLES."""
    own = HERE / "networks" / f"{name}.prototxt"
    return own if own.exists() else FIXTURES / f"{name}.prototxt"


def network(name: str) -> Network:
    """A network with its weights, which are made where they are missing."""
    source = prototxt(name)
    weights = WORK / f"{name}.caffemodel"
    if not weights.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        unfinished = weights.with_suffix(".part")
        write_caffemodel(unfinished, _layers(read_graph(source)))
        unfinished.rename(weights)
    return Network(name, source, weights)


def _layers(graph: Graph) -> Iterator[tuple[str, str, list[Array]]]:
    types = dict(_types(graph))
    for name, weights in graph.layer_weights.items():
        made = (
            _seeded().seeded_blob(name, types[name], i, weight.shape)
            for i, weight in enumerate(weights)
        )
        yield name, types[name], list(made)


def _types(graph: Graph) -> Iterator[tuple[str, str]]:
    """Caffe's types of the layers that hold weights."""
    for node in graph.nodes:
        for part in node.layers:
            yield part.name, type(part.layer).__name__


@cache
def _seeded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seeded", FIXTURES / "seeded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Layers = Iterator[tuple[str, str, list[Array]]]


def write_caffemodel(path: Path, layers: Layers) -> None:
    """Writes a NetParameter of (name, type, blobs) layers, one blob in memory."""
    with path.open("wb") as stream:
        for name, type_, blobs in layers:
            parts = [_chunk(1, name.encode()), _chunk(2, type_.encode())]
            heads = [_blob_head(blob) for blob in blobs]
            length = sum(map(len, parts))
            for head, blob in zip(heads, blobs, strict=True):
                body = len(head) + blob.nbytes
                length += 1 + len(_varint(body)) + body
            stream.write(_tag(100) + _varint(length) + b"".join(parts))
            for head, blob in zip(heads, blobs, strict=True):
                stream.write(_tag(7) + _varint(len(head) + blob.nbytes) + head)
                stream.write(np.ascontiguousarray(blob).data)


def _blob_head(blob: Array) -> bytes:
    """A BlobProto up to its numbers."""
    dims = b"".join(map(_varint, blob.shape))
    return _chunk(7, _chunk(1, dims)) + _tag(5) + _varint(blob.nbytes)


def _chunk(number: int, payload: bytes) -> bytes:
    return _tag(number) + _varint(len(payload)) + payload


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
