"""Crops whose offsets follow from the layers between their bottoms."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import Aligned
from caffe2flax.ir.coordinates import IDENTITY, CoordinateMap, Spatial
from caffe2flax.ir.graph import Graph, Node, Value

WIDE = 30
"""Rows of border, beyond what keeps the size, that no layer has by chance."""


class Place(NamedTuple):
    """How the pixels of `root` lie in a blob, and whether a layer in between has a
    border that only a crop explains."""

    root: Value
    map: CoordinateMap
    wide: bool = False


def align_crops(graph: Graph) -> Graph:
    """Tells the layers that ask for it where their bottoms lie on one another.

    Before: score = Crop(upscore, data)
    After:  score = Crop(upscore, data) with offset (19, 19)

    Each blob is a scale and a shift of what it comes from, by first bottoms; the offset
    is the difference of two blobs that come from one. Raises ConversionError with the
    problems of all layers.
    """
    places: dict[Value, Place] = {}
    problems: list[Problem] = []
    nodes, notes = [], []
    for node in graph.nodes:
        above = [places.get(value, Place(value, IDENTITY)) for value in node.inputs]
        if isinstance(node.layer, Aligned) and node.layer.aligned:
            try:
                layer, note = node.layer.with_alignment(*_between(*above[:2]))
            except ConversionError as error:
                problems += node.fail(error).problems
                continue
            node = replace(node, layer=layer)
            notes += [f"{node.span}: {note}"] if note else []
        if above:
            places.update((top, _below(node, top, above[0])) for top in node.outputs)
        nodes.append(node)
    if problems:
        raise ConversionError(problems)
    return replace(graph, nodes=tuple(nodes)).with_notes(*notes)


def _below(node: Node, top: Value, above: Place) -> Place:
    step = None
    try:
        if isinstance(node.layer, Spatial):
            step = node.layer.coordinate_map()
    except ConversionError:
        pass  # its windows do not lie on two axes; `infer` says where that is wrong
    if step is None or len(step) != 2:
        return Place(top, IDENTITY)
    pairs = zip(above.map, step, strict=True)
    total = tuple((scale * s, s * shift + b) for (scale, shift), (s, b) in pairs)
    wide = any(s <= 1 and abs(b / s) >= WIDE for s, b in step)
    return Place(above.root, total, above.wide or wide)


def _between(cropped: Place, like: Place) -> tuple[tuple[Fraction, ...] | None, bool]:
    """Where `like` begins in `cropped`, for each axis; None where nothing tells."""
    scales = [[scale for scale, _ in place.map] for place in (cropped, like)]
    if cropped.root != like.root or scales[0] != scales[1]:
        return None, False
    pairs = zip(cropped.map, like.map, strict=True)
    return tuple(a - b for (_, a), (_, b) in pairs), cropped.wide or like.wide
