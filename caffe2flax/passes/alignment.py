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
"""A border of more rows than the kernel needs, by this number, is there to be
cropped."""


class RootMap(NamedTuple):
    """The map from the pixels of a blob to those of `root`, which it was computed from.
    wide: a layer in between adds a border that is meant to be cropped."""

    root: Value
    map: CoordinateMap
    wide: bool = False


def align_crops(graph: Graph) -> Graph:
    """Gives crops without an offset the one that follows from the layers above.

    Before: score = Crop(upscore, data)
    After:  score = Crop(upscore, data) with offset (19, 19)

    Through first bottoms, the pixels of each blob map to those of an earlier one by a
    scale and a shift; the offset is the difference of two maps to the same blob. Raises
    ConversionError with the problems of all layers.
    """
    maps: dict[Value, RootMap] = {}
    problems: list[Problem] = []
    nodes, notes = [], []
    for node in graph.nodes:
        above = [maps.get(value, RootMap(value, IDENTITY)) for value in node.inputs]
        if isinstance(node.layer, Aligned) and node.layer.aligned:
            try:
                layer, note = node.layer.with_alignment(*_offsets(*above[:2]))
            except ConversionError as error:
                problems += node.fail(error).problems
                continue
            node = replace(node, layer=layer)
            notes += [f"{node.span}: {note}"] if note else []
        if above:
            maps.update((top, _map_of_top(node, top, above[0])) for top in node.outputs)
        nodes.append(node)
    if problems:
        raise ConversionError(problems)
    return replace(graph, nodes=tuple(nodes)).with_notes(*notes)


def _map_of_top(node: Node, top: Value, above: RootMap) -> RootMap:
    step = None
    try:
        if isinstance(node.layer, Spatial):
            step = node.layer.coordinate_map()
    except ConversionError:
        pass  # its windows have not two axes; `infer` raises if that is an error
    if step is None or len(step) != 2:
        return RootMap(top, IDENTITY)
    pairs = zip(above.map, step, strict=True)
    total = tuple((scale * s, s * shift + b) for (scale, shift), (s, b) in pairs)
    wide = any(s <= 1 and abs(b / s) >= WIDE for s, b in step)
    return RootMap(above.root, total, above.wide or wide)


def _offsets(
    cropped: RootMap, like: RootMap
) -> tuple[tuple[Fraction, ...] | None, bool]:
    """The offset of `like` in `cropped` on each axis, None where there is none, and
    whether a border is meant to be cropped."""
    scales = [[scale for scale, _ in root_map.map] for root_map in (cropped, like)]
    if cropped.root != like.root or scales[0] != scales[1]:
        return None, False
    pairs = zip(cropped.map, like.map, strict=True)
    return tuple(a - b for (_, a), (_, b) in pairs), cropped.wide or like.wide
