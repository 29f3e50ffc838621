"""A net in training and its nets for tests, as one: Caffe shares the weights of layers
of one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import FollowsPhase
from caffe2flax.ir.graph import Graph, Node, Weight
from caffe2flax.ir.layer import Layer

Key = tuple[str, str, int]
"""Name and type of a layer, and how many of both came before it in its net."""


def number_alike(graphs: Sequence[Graph]) -> list[Graph]:
    """The nets before all passes, with one number for layers of one name and type, and
    with modules that serve all of them.

    Before: TRAIN: conv1 is number 1; TEST: conv1 is number 2
    After:  conv1 is number 1 in both; what TRAIN lacks has numbers behind all of its
    """
    numbers: dict[Key, int] = {}
    layers: dict[Key, Layer] = {}
    after = 1 + max(node.number for node in (*graphs[0].inputs, *graphs[0].nodes))
    for i, graph in enumerate(graphs):
        for key, node in _keyed(graph):
            if key not in numbers:
                numbers[key] = node.number if i == 0 else after + len(numbers)
            layers[key] = serving(layers.get(key, node.layer), node.layer)
    return [
        replace(
            graph,
            nodes=tuple(
                replace(
                    node, number=numbers[key], layer=serving(node.layer, layers[key])
                )
                for key, node in _keyed(graph)
            ),
        )
        for graph in graphs
    ]


def serving(layer: Layer, other: Layer) -> Layer:
    return layer.serving(other) if isinstance(layer, FollowsPhase) else layer


def _keyed(graph: Graph) -> Iterator[tuple[Key, Node]]:
    seen: Counter[tuple[str, str]] = Counter()
    for node in graph.nodes:
        key = node.name, node.layer.type
        yield (*key, seen[key]), node
        seen[key] += 1


def folded_alike(graphs: Sequence[Graph]) -> bool:
    """Whether the same layers are folded into one in all of these nets."""
    found: dict[int, tuple[int, ...]] = {}
    return all(
        found.setdefault(node.number, parts) == parts
        for graph in graphs
        for node in graph.nodes
        if node.number >= 0
        for parts in [tuple(part.number for part in node.layers)]
    )


def share_weights(train: Graph, test: Graph) -> Graph:
    """`test` with the weights of the layers of `train`, by number, both after all
    passes. Raises ConversionError where Caffe cannot share them."""
    known = {node.number: node for node in _layers(train.nodes)}
    with_weights = {node.name for node in known.values() if node.weights}
    problems: list[Problem] = []
    mapped: dict[Weight, Weight] = {}
    for node in _layers(test.nodes):
        other = known.get(node.number)
        if other is None:
            if node.weights and node.name in with_weights:
                text = f"layer {node.name!r} has another type in TRAIN"
                problems.append(Problem(text, node.span))
            continue
        shapes = [weight.shape for weight in node.weights]
        theirs = [weight.shape for weight in other.weights]
        if shapes != theirs:
            text = f"layer {node.name!r} has weights of shape {_shown(shapes)} in TEST"
            text += f" and {_shown(theirs)} in TRAIN: Caffe cannot share them"
            problems.append(Problem(text, node.span))
            continue
        mapped |= dict(zip(node.weights, other.weights, strict=True))
    if problems:
        raise ConversionError(problems)
    return replace(test, nodes=tuple(_with(node, mapped) for node in test.nodes))


def _layers(nodes: Iterable[Node]) -> Iterator[Node]:
    return (layer for node in nodes for layer in node.layers)


def _with(node: Node, mapped: Mapping[Weight, Weight]) -> Node:
    weights = tuple(replace(mapped.get(w, w), shape=w.shape) for w in node.weights)
    parts = tuple(_with(part, mapped) for part in node.parts)
    return replace(node, weights=weights, parts=parts)


def _shown(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"


def all_layers(train: Graph, others: Sequence[Graph]) -> Graph:
    """`train` with the layers that only `others` have: what has weights."""
    nodes = {node.number: node for node in train.nodes}
    for graph in others:
        for node in graph.nodes:
            if node.number >= 0:
                nodes.setdefault(node.number, node)
    sizes = train.sizes
    for graph in others:
        larger = graph.sizes.larger_batch
        missing = graph.shapes.keys() - train.shapes.keys()
        sizes = sizes.with_shapes(
            {value: graph.shapes[value] for value in missing},
            {value: larger[value] for value in missing},
        )
    return replace(
        train,
        nodes=tuple(nodes.values()),
        sizes=sizes,
        layouts={k: v for g in (*others, train) for k, v in g.layouts.items()},
        blobs={k: v for g in (*others, train) for k, v in g.blobs.items()},
    )
