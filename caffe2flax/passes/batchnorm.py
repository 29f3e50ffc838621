"""BatchNorm + Scale -> one nnx.BatchNorm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from caffe2flax.ir import Graph, Node, Value
from caffe2flax.registry import Layer


def fold_batchnorm(graph: Graph) -> Graph:
    """Joins each layer with the one behind it that it can take in (`Layer.fold`).

    Before: a = BatchNorm(x); b = Scale(a)
    After:  b = BatchNorm(x), with the weights of both

    Not where another layer reads `a`, or where `a` leaves the module, or where one of
    the two shares weights by itself.
    """
    return join(graph, lambda layer, following: layer.fold(following))


def join(
    graph: Graph, fold: Callable[[Layer, Layer], Layer | None], tied: bool = True
) -> Graph:
    """One node for two, wherever `fold` has a layer for what they do. tied: also where
    another such pair has the same weights."""
    pairs = [*_pairs(graph, fold)]
    uses = Counter(weight for node in graph.nodes for weight in node.weights)
    alike = Counter(node.weights + follower.weights for node, follower, _ in pairs)
    alike = alike if tied else Counter(set(alike))
    folded: dict[int, Node] = {}
    gone: set[int] = set()
    for node, follower, layer in pairs:
        weights = node.weights + follower.weights
        if any(uses[weight] != alike[weights] for weight in weights):
            continue
        others = [value for value in follower.inputs if value not in node.outputs]
        folded[node.number] = replace(
            node,
            layer=layer,
            inputs=(*node.inputs, *others),
            outputs=follower.outputs,
            weights=weights,
            shares=(),
            parts=(*node.layers, *follower.layers),
        )
        gone.add(follower.number)
    nodes = (folded.get(n.number, n) for n in graph.nodes if n.number not in gone)
    return replace(graph, nodes=tuple(nodes))


def _pairs(
    graph: Graph, fold: Callable[[Layer, Layer], Layer | None]
) -> Iterator[tuple[Node, Node, Layer]]:
    """Two nodes, and the layer that does the work of both. What has more bottoms than
    one comes right behind the other, so that all of them are there."""
    readers = graph.readers()
    for node, next_ in pairwise((*graph.nodes, None)):
        assert node is not None
        follower = _only_reader(node, readers, graph.wanted)
        if follower is None or not all(follower.propagate_down):
            continue
        distinct = len(set(follower.inputs)) == len(follower.inputs)
        here = follower.layer.sums and follower is next_ and distinct
        if len(follower.inputs) > 1 and not here:
            continue
        layer = fold(node.layer, follower.layer)
        if layer is not None:
            yield node, follower, layer


def _only_reader(
    node: Node, readers: Mapping[Value, tuple[Node, ...]], wanted: frozenset[Value]
) -> Node | None:
    if len(node.outputs) != 1 or node.outputs[0] in wanted:
        return None
    found = readers.get(node.outputs[0], ())
    return found[0] if len(found) == 1 else None
