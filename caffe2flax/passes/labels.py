"""Shapes of labels that only their data has: those that suit the layers which read
them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from caffe2flax.errors import Problem, UnknownShape
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Shape
from caffe2flax.passes.walk import walk

LONGEST = 256
"""The longest row of labels that is tried for a layer which cuts it into pieces."""
TRIES = 2000
"""How many sets of shapes are tried."""

Shapes = Mapping[Value, Shape]


def fit_labels(
    graph: Graph, shapes: Shapes, labels: Mapping[Value, UnknownShape]
) -> Shapes | None:
    """A shape for each of the labels, as far as the error does not say it, under which
    no layer has a problem; None where none is found.

    shapes: those of all values that do not depend on the labels.
    """
    below = _below(graph, labels)
    part = replace(graph, nodes=tuple(below))
    order = list(labels)
    usual = next((shape[0] for shape in shapes.values() if shape), 1)
    tries = 0

    def fit(found: Shapes) -> Shapes | None:
        nonlocal tries
        if len(found) == len(order):
            return found
        value = order[len(found)]
        known = {**shapes, **found}
        walk(part, known, list[Problem]())
        label = labels[value]
        batch = label.known[0] or usual
        for shape in dict.fromkeys(_candidates(value, below, known, batch)):
            if not _agrees(shape, label):
                continue
            tries += 1
            problems: list[Problem] = []
            walk(part, {**shapes, **found, value: shape}, problems)
            if problems or tries > TRIES:
                continue
            if (rest := fit({**found, value: shape})) is not None:
                return rest
        return None

    return fit({})


def _agrees(shape: Shape, label: UnknownShape) -> bool:
    """Whether a shape is one that is only known in part."""
    if len(shape) != len(label.known) and not label.more:
        return False
    return all(a in (0, b) for a, b in zip(label.known, shape, strict=False))


def _below(graph: Graph, labels: Iterable[Value]) -> list[Node]:
    """The nodes that depend on the labels."""
    reached = set(labels)
    nodes = []
    for node in graph.nodes:
        if not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
            nodes.append(node)
    return nodes


def _candidates(
    value: Value, nodes: Sequence[Node], known: Shapes, batch: int
) -> Iterator[Shape]:
    """One number an item; what the layers that read the label have beside it, whole or
    one number for all channels; several numbers an item, or maps of them."""
    yield (batch,)
    yield (batch, 1)
    readers = [node for node in nodes if value in node.inputs]
    for node in readers:
        beside = (known[v] for v in node.inputs if v != value and v in known)
        for shape in filter(None, beside):
            yield shape
            if len(shape) > 2:
                yield (shape[0], 1, *shape[2:])
                yield (shape[0], *shape[2:])
            yield (shape[0],)
    if any(len(node.inputs) == 1 for node in readers):
        # Maps are of the size of something that they are compared with further below.
        sizes = [known[v][2:] for node in nodes for v in node.inputs if v in known]
        for size in dict.fromkeys([*sizes, ()]):
            yield from ((batch, count, *size) for count in range(2, LONGEST + 1))
