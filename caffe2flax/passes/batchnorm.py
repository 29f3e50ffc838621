"""BatchNorm + Scale -> one nnx.BatchNorm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from caffe2flax.ir import Graph, Node, Value


def fold_batchnorm(graph: Graph) -> Graph:
    """Joins each layer with the one behind it that it can take in (`Layer.fold`).

    Before: a = BatchNorm(x); b = Scale(a)
    After:  b = BatchNorm(x), with the weights of both

    Not where another layer reads `a`, or where `a` leaves the module.
    """
    readers = graph.readers()
    folded: dict[int, Node] = {}
    gone: set[int] = set()
    for node in graph.nodes:
        follower = _only_reader(node, readers, graph.wanted)
        if follower is None or not all(follower.propagate_down):
            continue
        layer = node.layer.fold(follower.layer)
        if layer is None:
            continue
        folded[node.number] = replace(
            node,
            layer=layer,
            outputs=follower.outputs,
            weights=node.weights + follower.weights,
            shares=(),
        )
        gone.add(follower.number)
    nodes = (folded.get(n.number, n) for n in graph.nodes if n.number not in gone)
    return replace(graph, nodes=tuple(nodes))


def _only_reader(
    node: Node, readers: Mapping[Value, tuple[Node, ...]], wanted: frozenset[Value]
) -> Node | None:
    if len(node.outputs) != 1 or node.outputs[0] in wanted:
        return None
    found = readers.get(node.outputs[0], ())
    return found[0] if len(found) == 1 and len(found[0].inputs) == 1 else None
