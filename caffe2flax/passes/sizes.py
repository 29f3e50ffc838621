"""Which sizes of the inputs may be others than the file's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

from caffe2flax.errors import ConversionError
from caffe2flax.ir import Graph, Value
from caffe2flax.layout import Shape

Axes = tuple[tuple[Value, int], ...]


def find_free_sizes(graph: Graph) -> Graph:
    """Notes the axes of each input whose extent no layer fixes: the net is walked again
    with twice the extent, and no shape of a weight may change.

    Height and width are free in front of global pooling, and not in front of a dense
    layer. Channels are fixed whatever the layers say, so that N, C, H, W is told from
    N, H, W, C; among sequences (T, N, ...) axis 1 is none. The leading axis is left to
    `infer_shapes`.
    """
    known = [value for value in graph.arguments if value not in graph.assumed]
    spatial: list[Axes] = [
        tuple((value, axis) for axis in range(2, len(graph.shapes[value])))
        for value in known
    ]
    everywhere = tuple(chain.from_iterable(spatial))
    free = set(everywhere if _may_grow(graph, everywhere) else ())
    ranks = {len(graph.shapes[value]) for value in known}
    alone = [
        ((value, axis),)
        for value in known
        for axis in range(1 if 3 in ranks else 2, len(graph.shapes[value]))
    ]
    for axes in (*spatial, *alone):
        if not free.issuperset(axes) and _may_grow(graph, axes):
            free.update(axes)
    return replace(
        graph, free={v: frozenset(a for w, a in free if w == v) for v in known}
    )


def _may_grow(graph: Graph, axes: Iterable[tuple[Value, int]]) -> bool:
    """Whether the net takes inputs of twice the extent along all of `axes`."""
    shapes = {value: graph.shapes[value] for value in graph.arguments}
    for value, axis in axes:
        shape = list(shapes[value])
        shape[axis] *= 2
        shapes[value] = tuple(shape)
    try:
        return _fit(graph, shapes)
    except ConversionError:
        return False


def _fit(graph: Graph, shapes: dict[Value, Shape]) -> bool:
    """Whether inputs of these shapes leave those of all weights as they are. Raises
    ConversionError where a layer refuses them."""
    usual: Mapping[Value, Shape] = graph.shapes
    for node in graph.nodes:
        inputs = [shapes[value] for value in node.inputs]
        before = [usual[value] for value in node.inputs]
        if inputs == before:
            shapes.update((value, usual[value]) for value in node.outputs)
            continue
        blobs = node.layer.blobs(*inputs), node.layer.blobs(*before)
        if [b.shape for b in blobs[0]] != [b.shape for b in blobs[1]]:
            return False
        shapes.update(zip(node.outputs, node.layer.infer(*inputs), strict=True))
    return True
