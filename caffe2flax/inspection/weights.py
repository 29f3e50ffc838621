"""Facts about a weights file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod

from caffe2flax.display import markup
from caffe2flax.errors import ConversionError
from caffe2flax.frontend.caffemodel import LayerBlobs, WeightFile
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.schema import read_architecture
from caffe2flax.inspection.tables import by, size
from caffe2flax.ir.layout import Shape


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob of a weights file."""

    layer: str
    type: str
    index: int
    shape: Shape
    dtype: str
    size: int


@dataclass(frozen=True, slots=True, repr=False)
class WeightsInspection:
    """The contents of a weights file. net: how many layers the net in the file has, 0
    where there is no net that can be read, with the reason in `problem`."""

    path: str
    version: str
    name: str
    size: int
    layers: int
    blobs: tuple[StoredBlob, ...]
    net: int
    problem: str
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return sum(prod(blob.shape) for blob in self.blobs)

    def __repr__(self) -> str:
        counts = f"{self.layers:,} layers, {self.parameters:,} parameters"
        return f"WeightsInspection({self.name or self.path}: {counts})"

    def _repr_html_(self) -> str:
        """What a notebook shows: totals, and a table of the blobs."""
        facts = (
            ("file", f"{self.path}, {self.version}, {size(self.size)}"),
            ("layers", f"{self.layers:,}"),
            ("parameters", f"{self.parameters:,}"),
            *markup.noted(self.notes),
        )
        titles = ("layer", "type", "blob", "shape", "dtype")
        rows = [(b.layer, b.type, b.index, by(b.shape), b.dtype) for b in self.blobs]
        blobs = markup.folded(f"{len(rows):,} blobs", markup.table(titles, rows))
        return markup.card(self.name or "weights", facts, blobs)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "parameters": self.parameters}


def inspect_weights(
    file: WeightFile, path: str | os.PathLike[str]
) -> WeightsInspection:
    """The facts of a weights file."""
    net, problem = 0, ""
    try:
        fields = read_architecture(path).net.fields
        layers = [field.value for field in fields if field.name in ("layer", "layers")]
        net = len(layers)
        if not any(isinstance(x, Message) and _is_wired(x) for x in layers):
            net, problem = 0, "its layers name no blobs that they read or make"
    except ConversionError as error:
        problem = error.problems[0].message
    return WeightsInspection(
        file.path,
        file.version,
        file.net_name,
        file.size,
        len(file.layers),
        tuple(blob for layer in file.layers for blob in _stored(layer)),
        net,
        problem,
        file.notes,
    )


def _is_wired(layer: Message) -> bool:
    """Whether a layer has bottoms or tops; in V0 these fields are one level deeper."""
    inner = (f.value for f in layer.all("layer") if isinstance(f.value, Message))
    return any(x.has("top") or x.has("bottom") for x in (layer, *inner))


def _stored(layer: LayerBlobs) -> Iterator[StoredBlob]:
    for i, blob in layer.numbered.items():
        dtype = str(blob.dtype)
        yield StoredBlob(layer.name, layer.type, i, blob.shape, dtype, blob.nbytes)
