"""Losses and scores that a net at test has no labels for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from caffe2flax.ir.abilities import NotConverted, Source
from caffe2flax.ir.graph import Dropped, Graph, Node, Value
from caffe2flax.ir.layer import Layer


def drop_unused(graph: Graph) -> Graph:
    """Leaves out what has no top, and in TEST what needs labels that only training has.

    Before: data, label = Data; fc8 = ...(data); loss = SoftmaxWithLoss(fc8, label)
    After:  data = Data; fc8 = ...(data), and fc8 is an output.

    Labels are blobs that a data layer reads from disk and that reach the loss through
    no layer with weights. What reads such a loss goes with it. A loss whose labels come
    from an Input stays, and so does one that a tap depends on. In either phase, what is
    not converted because it serves training alone goes, unless weights depend on it.
    """
    nodes = [node for node in graph.nodes if node.outputs]
    silent = [node for node in graph.nodes if not node.outputs]
    dropped = [_dropped(node, "it has no top") for node in silent]
    training = graph.phase != "TEST"
    labels = _labels(graph)
    lost = _lost(graph, nodes, set() if training else labels)
    if training and not lost:
        done = _without(graph, nodes, dropped, ())
        return done.with_notes(*_hidden_losses(done))

    nodes = [node for node in nodes if node.number not in lost]
    gone = [node for node in graph.nodes if node.number in lost]
    dropped += [_dropped(node, lost[node.number]) for node in gone]

    unmade = {value for node in gone for value in node.outputs} | labels
    read = {value for node in nodes for value in node.inputs}
    enders = gone if training else (*gone, *silent)
    freed = [value for node in enders for value in node.inputs]
    kept = [v for v in freed if v not in read and v not in unmade]
    ended = lost or not any(_leaves(node, graph) for node in (*graph.inputs, *nodes))
    done = _without(graph, nodes, dropped, kept if ended else ())
    if not training:
        return done
    left = (f"{n.span}: {n.name!r} is left out: {lost[n.number]}" for n in gone)
    return done.with_notes(*_hidden_losses(done), *left)


def _hidden_losses(graph: Graph) -> Iterable[str]:
    """Notes on losses that count in Caffe's total, but that the module does not return,
    because other layers read them."""
    for node in graph.nodes:
        for value, weight in zip(node.outputs, node.loss_weights, strict=False):
            if weight and value not in graph.returned:
                yield (
                    f"{node.span}: {value.blob!r} counts {weight} times in Caffe's "
                    "total loss, but is no output, as another layer reads it: tap it"
                )


def _lost(graph: Graph, nodes: list[Node], labels: set[Value]) -> dict[int, str]:
    """Why each node cannot stay, by number: losses without labels, and what reads them.

    Nodes that a tap depends on stay all the same.
    """
    needed = set(graph.taps)
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
    weighed = _weighed(nodes)
    lost: dict[int, str] = {}
    gone: set[Value] = set()
    for node in nodes:
        if not needed.isdisjoint(node.outputs):
            continue
        if isinstance(node.layer, NotConverted) and weighed.isdisjoint(node.outputs):
            lost[node.number] = f"{node.layer.type} serves training alone"
        elif node.layer.metric and not labels.isdisjoint(node.inputs):
            lost[node.number] = "its labels come from a data layer"
        elif not gone.isdisjoint(node.inputs):
            lost[node.number] = "it reads a layer that is left out"
        else:
            continue
        gone.update(node.outputs)
    return lost


def _weighed(nodes: list[Node]) -> set[Value]:
    """Values that layers with weights depend on."""
    found: set[Value] = set()
    for node in reversed(nodes):
        if _has_weights(node.layer) or not found.isdisjoint(node.outputs):
            found.update(node.inputs)
    return found


def _leaves(node: Node, graph: Graph) -> bool:
    return not graph.returned.isdisjoint(node.outputs)


def _labels(graph: Graph) -> set[Value]:
    """Values that come from data layers through layers without weights, and whose
    sources no layer with weights reads."""
    sources = [node for node in graph.inputs if _is_training_data(node.layer)]
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
    if not weighed:  # a net without weights: what comes first is no label
        weighed = {node.outputs[0] for node in sources if node.outputs}
    return {value for value, roots in origin.items() if not roots & weighed}


def _is_training_data(layer: Layer) -> bool:
    return isinstance(layer, Source) and layer.training_data


def _has_weights(layer: Layer) -> bool:
    return type(layer).blobs is not Layer.blobs


def _without(
    graph: Graph, nodes: list[Node], dropped: list[Dropped], freed: Iterable[Value]
) -> Graph:
    """`graph` with these nodes, and without what only served the dropped ones."""
    made = {value for node in nodes for value in node.outputs} | set(graph.arguments)
    still = (value for value in graph.outputs if value in made)
    outputs = tuple(dict.fromkeys((*still, *freed)))
    needed = set(outputs) | set(graph.taps)
    kept: list[Node] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
        else:
            dropped.append(_dropped(node, "only dropped layers read it"))
    remarks = graph.remarks
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        outputs=outputs,
        remarks=replace(remarks, dropped=(*remarks.dropped, *dropped)),
    )


def _dropped(node: Node, reason: str) -> Dropped:
    return Dropped(node.name, node.layer.type, reason, node.span, node.number)
