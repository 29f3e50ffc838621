"""What the net says of the photograph that it was run on, as it does in `predict`: by
the module and by the oracle."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, optional
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.prediction.decode import Choice, decode_result
from caffe2flax.prediction.images import decode
from caffe2flax.prediction.kinds import Kind, Reading, read_as
from caffe2flax.prediction.painting import paint
from caffe2flax.prediction.results import Classes
from caffe2flax.prediction.tables import Record, records
from caffe2flax.verification.inputs import Photo

Array = NDArray[Any]
Values = Mapping[Value, Array]

LARGEST = 480
"""The width and height within which pictures are shown, in pixels."""
MOST = 20
"""How many rows are shown."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The photograph and what was drawn of the module's result, as PNG files, and the
    rows of both results; `expected` is empty where the oracle has no such blob."""

    kind: Kind
    blob: str
    pictures: tuple[bytes, ...]
    rows: tuple[Record, ...]
    expected: tuple[Record, ...]


def read_beside(
    graph: Graph, photo: Photo, ours: Values, expected: Values
) -> Beside | None:
    """The results of both; None where the net's outputs are of no known kind."""
    try:
        reading = read_as(graph)
        result = decode_result(
            reading,
            _blobs(graph, reading, ours),
            photo.recipe,
            photo.size,
            Choice(),
            0,
        )
    except (ConversionError, KeyError):
        return None
    rows = tuple(records(result, {})[:MOST])
    pictures = [_small(decode(photo.path, 3)[..., ::-1])]
    if not isinstance(result, Classes):
        pictures += map(_reduced, paint(photo.path, result, {}).values())
    try:
        blobs = _blobs(graph, reading, expected)
        other = decode_result(reading, blobs, photo.recipe, photo.size, Choice(), 0)
    except (ConversionError, KeyError):
        return Beside(reading.kind, reading.blob, tuple(pictures), rows, ())
    wanted = tuple(records(other, {})[:MOST])
    return Beside(reading.kind, reading.blob, tuple(pictures), rows, wanted)


def _blobs(graph: Graph, reading: Reading, values: Values) -> dict[str, Array]:
    """The blobs of a reading, without rows that Caffe would not give. KeyError where
    one is missing."""
    found = {name: values[graph.blobs[name]] for name in reading.blobs}
    for node in graph.nodes:
        for name in found:
            if graph.blobs[name] in node.outputs:
                found[name] = node.layer.trim(found[name])
    return found


def _small(pixels: Array) -> bytes:
    with optional("an image", "Pillow", "predict"):
        from PIL import Image

    return _png(Image.fromarray(np.ascontiguousarray(pixels)))


def _reduced(data: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return _png(image.convert("RGB"))


def _png(image: Any) -> bytes:
    image.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
