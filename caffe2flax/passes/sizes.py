"""Which extents of the inputs may differ from the file's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Windowed
from caffe2flax.ir.graph import Graph, Node, Sizes, Value
from caffe2flax.ir.layer import Site
from caffe2flax.ir.layout import Shape
from caffe2flax.passes.layout import assign_layouts
from caffe2flax.passes.padding import reconcile_padding
from caffe2flax.passes.shapes import propagate

Axes = Sequence[tuple[Value, int]]
Shapes = Mapping[Value, Shape]


def find_free_sizes(graph: Graph) -> Graph:
    """Finds the axes of each input whose extent may vary: with twice the extent, the
    shapes of the weights and the code of all layers stay the same, except for the pads
    of windows, which are always those for the file's size.

    Height and width are free before global pooling, but not before a dense layer.
    Channels are always fixed, so that N, C, H, W is not confused with N, H, W, C. Of
    sequences (T, N, ...) N is free, too.
    """
    known = [value for value in graph.arguments if value not in graph.sizes.assumed]
    original: object = None
    free: set[tuple[Value, int]] = set()
    for axes in dict.fromkeys(map(tuple, _choices(graph, known))):
        doubled = None if free.issuperset(axes) else _written(graph, axes)
        if doubled is None:
            continue
        original = original or _written(graph, ())  # computed only where it is needed
        if doubled == original:
            free.update(axes)
    axes_of = {v: frozenset(axis for value, axis in free if value == v) for v in known}
    return replace(graph, sizes=replace(graph.sizes, free_axes=axes_of))


def _choices(graph: Graph, known: Sequence[Value]) -> Iterable[Axes]:
    """Sets of axes to try: all spatial ones, those of inputs of the same size, those of
    each input, each alone; and the axis of the items of sequences."""
    shapes = {value: graph.shapes[value] for value in known}
    spatial = {v: [(v, axis) for axis in range(2, len(shapes[v]))] for v in known}
    yield [pair for pairs in spatial.values() for pair in pairs]
    for sizes in dict.fromkeys(shape[2:] for shape in shapes.values()):
        yield [pair for v in known if shapes[v][2:] == sizes for pair in spatial[v]]
    for pairs in spatial.values():
        yield pairs
        yield from ([pair] for pair in pairs)
    sequences = [shape for shape in shapes.values() if len(shape) == 3]
    if sequences:
        steps, items = sequences[0][:2]
        yield [(v, 1) for v in known if shapes[v][:2] == (steps, items)] + [
            (v, 0) for v in known if shapes[v][:1] == (items,) != (steps,)
        ]


def _doubled(graph: Graph, shapes: Shapes, axes: Axes) -> dict[Value, Shape]:
    """The shapes of the inputs with twice the extent along all of `axes`."""
    doubled = {value: shapes[value] for value in graph.arguments}
    for value, axis in axes:
        shape = list(doubled[value])
        shape[axis] *= 2
        doubled[value] = tuple(shape)
    return doubled


def _written(graph: Graph, axes: Axes) -> object:
    """The code of each layer for inputs of twice the extent along all of `axes`; None
    where a layer, or a weight, does not allow them."""
    shapes = _doubled(graph, graph.shapes, axes)
    try:
        for node in graph.nodes:
            inputs = [shapes[value] for value in node.inputs]
            wanted = [weight.shape for weight in node.weights]
            if wanted != [blob.shape for blob in node.layer.blobs(*inputs)]:
                return None
            outputs = node.layer.infer(*inputs)
            shapes.update(zip(node.outputs, outputs, strict=True))
        larger = _doubled(graph, graph.sizes.larger_batch, axes)
        sizes = Sizes(shapes, propagate(graph, shapes, larger))
        done = assign_layouts(reconcile_padding(replace(graph, sizes=sizes)))
        return [_text(done, node) for node in done.nodes]
    except (ConversionError, ValueError):
        return None


def _text(graph: Graph, node: Node) -> object:
    """The code of a node; for a layer of windows only the name of its function."""
    inputs = tuple(map(graph.operand, node.inputs))
    outputs = tuple(map(graph.operand, node.outputs))
    args = tuple(f"x{i}" for i in range(len(inputs)))
    text = node.layer.call(Site(inputs, outputs, "module", args))
    slides = isinstance(node.layer, Windowed)
    return text.partition("(")[0].removeprefix("nnx.") if slides else text
