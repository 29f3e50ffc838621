"""BatchNorm + Scale -> one nnx.BatchNorm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from caffe2flax.ir.abilities import Foldable
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Layer


def fold_batchnorm(graph: Graph) -> Graph:
    """Joins each `Foldable` layer with the next layer, where the two can be one.

    Before: a = BatchNorm(x); b = Scale(a)
    After:  b = BatchNorm(x), with the weights of both

    Not where another layer reads `a`, where the module returns `a`, or where one of the
    two shares weights with other layers.
    """
    pairs = [*_pairs(graph)]
    uses = Counter(weight for node in graph.nodes for weight in node.weights)
    alike = Counter(node.weights + follower.weights for node, follower, _ in pairs)
    folded: dict[int, Node] = {}
    removed: set[int] = set()
    for node, follower, layer in pairs:
        weights = node.weights + follower.weights
        if any(uses[weight] != alike[weights] for weight in weights):
            continue
        folded[node.number] = replace(
            node,
            layer=layer,
            outputs=follower.outputs,
            weights=weights,
            loss_weights=follower.loss_weights,
            specs=(),
            parts=(*node.layers, *follower.layers),
        )
        removed.add(follower.number)
    nodes = (folded.get(n.number, n) for n in graph.nodes if n.number not in removed)
    return replace(graph, nodes=tuple(nodes))


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node, Layer]]:
    """Two nodes, and the layer that computes the same as both."""
    readers = graph.readers()
    for node in graph.nodes:
        follower = _only_reader(node, readers, graph.returned)
        if follower is None or not all(follower.propagate_down):
            continue
        if not isinstance(node.layer, Foldable):
            continue
        layer = node.layer.fold(follower.layer)
        if layer is not None:
            yield node, follower, layer


def _only_reader(
    node: Node, readers: Mapping[Value, tuple[Node, ...]], returned: frozenset[Value]
) -> Node | None:
    if len(node.outputs) != 1 or node.outputs[0] in returned:
        return None
    following = readers.get(node.outputs[0], ())
    return (
        following[0] if len(following) == 1 and len(following[0].inputs) == 1 else None
    )
