"""What the outputs of a net are: classes, boxes, a map, points, an image, a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from caffe2flax.errors import ConversionError, closest
from caffe2flax.ir.abilities import (
    FindsObjects,
    FindsPeaks,
    NumbersClasses,
    PassesValues,
    Probabilities,
    ProposesRegions,
)
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.layout import Shape
from caffe2flax.passes.transform import image_inputs

Kind = Literal["classes", "detections", "labels", "keypoints", "image", "flow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHOOSE = "choose one with --blob BLOB, and say with --as what it holds"


@dataclass(frozen=True, slots=True)
class Regions:
    """The blobs of an R-CNN, beside its scores: shifts of the boxes, and the regions
    (image, x1, y1, x2, y2) that they move. size: the input that tells its height, width
    and scale."""

    shifts: str
    regions: str
    size: Value | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the net's outputs are read.

    blob: the one that is read, or the scores of an R-CNN. shape: its shape, in Caffe's
    axis order. classes: the numbers that a class may have, none where there are none.
    maker: the layer that computes it.
    """

    kind: Kind
    blob: str
    shape: Shape
    classes: range
    maker: Layer | None
    regions: Regions | None = None
    peaks_in: tuple[int, int] = (0, 0)
    """Height and width of the maps in which peaks were found."""

    @property
    def blobs(self) -> tuple[str, ...]:
        """All blobs that are read."""
        if self.regions is None:
            return (self.blob,)
        return (self.blob, self.regions.shifts, self.regions.regions)


def read_as(graph: Graph, kind: Kind | None = None, blob: str | None = None) -> Reading:
    """What the net's outputs hold, or its blob `blob`: `kind`, or what follows from the
    layers that compute them. Raises ConversionError where nothing follows, and where
    the blob cannot hold that."""
    makers = {value: node for node in graph.nodes for value in node.outputs}
    names = [v.blob for v in graph.outputs if v not in graph.arguments]
    if blob is not None and blob not in graph.blobs:
        hint = closest(blob, graph.blobs)
        raise ConversionError(f"the net has no blob {blob!r}{hint}")
    found = [_follows(graph, makers, name) for name in ([blob] if blob else names)]
    if blob is None and kind in (None, "detections"):
        regions = _regions(graph, makers, names)
        found = [regions] if regions else found
    if len(found) > 1:
        found = _preferred(found, kind)
    if len(found) != 1:
        text = f"the net has several outputs, {', '.join(names)}"
        raise ConversionError(f"{text}: {CHOOSE}" if names else "the net has no output")
    (reading,) = found
    known = reading.kind != "classes" or _is_vector(reading.shape)
    if known and kind in (None, reading.kind):
        return reading
    return _as(reading, kind or reading.kind)


def _preferred(found: list[Reading], kind: Kind | None) -> list[Reading]:
    """Of several outputs those of the kind, or those that layers made for showing, or
    probabilities of classes."""
    alike = [reading for reading in found if reading.kind == kind] or found
    if len(alike) == 1:
        return alike
    made = (FindsObjects, FindsPeaks)
    clear = [reading for reading in alike if isinstance(reading.maker, made)]
    return clear or [
        reading
        for reading in alike
        if isinstance(reading.maker, Probabilities) and reading.maker.of_classes
    ]


def _follows(graph: Graph, makers: Mapping[Value, Node], name: str) -> Reading:
    """What a blob holds, by the layer that computes it and by its shape."""
    value = graph.blobs[name]
    shape = graph.shapes[value]
    node = _maker(makers, value)
    layer = node.layer if node else None
    classes = range(shape[1] if len(shape) > 1 else 0)
    if isinstance(layer, FindsObjects):
        return Reading("detections", name, shape, layer.object_classes, layer)
    if node is not None and isinstance(layer, FindsPeaks):
        extents = graph.shapes[node.inputs[0]][2:]
        size = (extents[0], extents[1])
        parts = range(shape[1])
        return Reading("keypoints", name, shape, parts, layer, peaks_in=size)
    kind: Kind = "classes"
    if _is_map(shape):
        scores = isinstance(layer, Probabilities) and layer.of_classes
        if isinstance(layer, NumbersClasses):
            kind, classes = "labels", range(0)
        elif shape[1] in (1, 3) and not scores:
            kind = "image"
        elif shape[1] == 2 and not scores and len(image_inputs(graph)) > 1:
            kind = "flow"
        else:
            kind = "labels"
    return Reading(kind, name, shape, classes, layer)


def _maker(makers: Mapping[Value, Node], value: Value) -> Node | None:
    """The layer that computes the numbers of a value; others may have moved them."""
    node = makers.get(value)
    while node is not None and isinstance(node.layer, PassesValues):
        node = makers.get(node.inputs[0])
    return node


def _regions(
    graph: Graph, makers: Mapping[Value, Node], names: list[str]
) -> Reading | None:
    """Scores (R, classes) and shifts (R, 4 for each class) among the outputs of a net
    that proposes regions."""
    proposing = [n for n in graph.nodes if isinstance(n.layer, ProposesRegions)]
    if len(proposing) != 1:
        return None
    (node,) = proposing
    rows = graph.shapes[node.outputs[0]][0]
    made = {name: _maker(makers, graph.blobs[name]) for name in names}
    shapes = {name: graph.shapes[graph.blobs[name]] for name in names}
    flat = {
        name: (name, shape[1])
        for name, shape in shapes.items()
        if len(shape) > 1 and shape[0] == rows and prod(shape) == rows * shape[1]
    }
    scores = [
        pair
        for name, pair in flat.items()
        if (maker := made[name]) and isinstance(maker.layer, Probabilities)
    ]
    if len(scores) != 1:
        return None
    ((name, count),) = scores
    shifts = [other for other, n in flat.values() if other != name and n % 4 == 0]
    if len(shifts) != 1 or flat[shifts[0]][1] not in (8, 4 * count):
        return None
    size = node.inputs[-1] if node.inputs[-1] in graph.arguments else None
    regions = Regions(shifts[0], node.outputs[0].blob, size)
    classes = range(1, count)
    return Reading("detections", name, shapes[name], classes, None, regions)


def _as(reading: Reading, kind: Kind) -> Reading:
    """The reading with another kind than follows from the layers. Raises
    ConversionError where the shape does not fit."""
    shape = reading.shape
    channels = shape[1] if len(shape) > 1 else 0
    classes = range(channels)
    fits = {
        "classes": _is_vector(shape),
        "detections": False,
        "labels": _is_map(shape),
        "keypoints": _is_map(shape) or (_is_vector(shape) and channels % 2 == 0),
        "image": _is_map(shape) and channels in (1, 3),
        "flow": _is_map(shape) and channels == 2,
    }
    if not fits[kind]:
        text = f"{reading.blob!r} of shape {shape} holds no {kind}: {NEEDED[kind]}"
        text += f"; --features {reading.blob} writes it as it is"
        raise ConversionError(text)
    if kind == "keypoints" and not _is_map(shape):
        classes = range(channels // 2)
    return Reading(kind, reading.blob, shape, classes, reading.maker)


NEEDED: Mapping[Kind, str] = {
    "classes": "a score for each class is (N, classes)",
    "detections": "they come from layers such as DetectionOutput, or from an R-CNN",
    "labels": "a score for each class and pixel is (N, classes, H, W)",
    "keypoints": "they are (N, 2 for each point) or maps (N, points, H, W)",
    "image": "one is (N, 1 or 3, H, W)",
    "flow": "it is (N, 2, H, W)",
}


def _is_vector(shape: Shape) -> bool:
    return len(shape) > 1 and prod(shape[1:]) == shape[1]


def _is_map(shape: Shape) -> bool:
    return len(shape) == 4 and prod(shape[2:]) > 1
