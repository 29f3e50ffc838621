"""Losses and scores that a net at test has no labels for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from caffe2flax.ir import Dropped, Graph, Node, Value
from caffe2flax.registry import Layer


def drop_unused(graph: Graph) -> Graph:
    """Leaves out what has no top, and in TEST what needs labels that only training has.

    Before: data, label = Data; fc8 = ...(data); loss = SoftmaxWithLoss(fc8, label)
    After:  data = Data; fc8 = ...(data), and fc8 is an output.

    Labels are blobs that a data layer reads from disk and that reach the loss through
    no layer with weights. A loss whose labels come from an Input stays, and so does one
    that is tapped.
    """
    nodes = [node for node in graph.nodes if node.outputs]
    silent = [node for node in graph.nodes if not node.outputs]
    dropped = [_dropped(node, "it has no top") for node in silent]
    if graph.phase != "TEST":
        return _without(graph, nodes, dropped, ())

    labels = _labels(graph)
    lost = [node for node in nodes if _needs_labels(node, labels, graph)]
    nodes = [node for node in nodes if node not in lost]
    dropped += [_dropped(node, "its labels come from a data layer") for node in lost]

    read = {value for node in nodes for value in node.inputs}
    freed = [value for node in (*lost, *silent) for value in node.inputs]
    kept = [v for v in freed if v not in read and v not in labels]
    ended = lost or not any(_leaves(node, graph) for node in (*graph.inputs, *nodes))
    return _without(graph, nodes, dropped, kept if ended else ())


def _leaves(node: Node, graph: Graph) -> bool:
    return not graph.wanted.isdisjoint(node.outputs)


def _labels(graph: Graph) -> set[Value]:
    """Values that come from data layers through layers without weights, and whose
    sources no layer with weights reads."""
    sources = [node for node in graph.inputs if node.layer.training_data]
    origin: dict[Value, set[Value]] = {
        value: {value} for node in sources for value in node.outputs
    }
    weighed: set[Value] = set()
    for node in graph.nodes:
        known = [origin.get(value) for value in node.inputs]
        roots = set().union(*(roots for roots in known if roots))
        if _has_weights(node.layer):
            weighed |= roots
        elif node.inputs and all(roots is not None for roots in known):
            origin.update((value, roots) for value in node.outputs)
    return {value for value, roots in origin.items() if not roots & weighed}


def _has_weights(layer: Layer) -> bool:
    return type(layer).blobs is not Layer.blobs


def _needs_labels(node: Node, labels: set[Value], graph: Graph) -> bool:
    wanted = not set(graph.taps).isdisjoint(node.outputs)
    return node.layer.metric and not wanted and not labels.isdisjoint(node.inputs)


def _without(
    graph: Graph, nodes: list[Node], dropped: list[Dropped], freed: Iterable[Value]
) -> Graph:
    """`graph` with these nodes, and without what only served the dropped ones."""
    made = {value for node in nodes for value in node.outputs} | set(graph.arguments)
    outputs = [value for value in graph.outputs if value in made]
    outputs += [v for v in dict.fromkeys(freed) if v not in outputs]
    needed = set(outputs) | set(graph.taps)
    kept: list[Node] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
        else:
            dropped.append(_dropped(node, "only dropped layers read it"))
    optional = (v for n in graph.inputs if n.layer.optional for v in n.outputs)
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        outputs=tuple(outputs),
        unread=frozenset(value for value in optional if value not in needed),
        dropped=(*graph.dropped, *dropped),
    )


def _dropped(node: Node, reason: str) -> Dropped:
    return Dropped(node.name, node.layer.type, reason, node.span)
