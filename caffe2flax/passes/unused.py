"""What of a net is not computed: losses and scores that have no labels in TEST, and
what no output depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from caffe2flax.ir.abilities import NotConverted, Source
from caffe2flax.ir.graph import Dropped, Graph, Node, Value
from caffe2flax.ir.layer import Layer


def keep_metrics(graph: Graph) -> Graph:
    """For a test during training, as `drop_unused` in TRAIN: leaves out layers without
    a top, but no losses and scores. What Caffe's net returns is returned."""
    nodes = [node for node in graph.nodes if node.outputs]
    dropped = [Dropped(n, "it has no top") for n in graph.nodes if not n.outputs]
    reasons = _reasons(graph, nodes, set())
    kept = [node for node in nodes if node.number not in reasons]
    dropped += [Dropped(n, reasons[n.number]) for n in nodes if n.number in reasons]
    done = _without(graph, kept, dropped, ())
    made = {value for node in (*graph.inputs, *done.nodes) for value in node.outputs}
    outputs = tuple(value for value in graph.outputs if value in made)
    left = (
        f"{node.span}: {node.name!r} is left out: {reasons[node.number]}"
        for node in nodes
        if node.number in reasons
    )
    return replace(done, outputs=outputs).with_notes(*left)


def needed(graph: Graph, outputs: Iterable[Value]) -> Graph:
    """`graph` with these outputs and only the nodes that they depend on."""
    results = tuple(outputs)
    wanted = set(results)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)), outputs=results, taps=())


def drop_unused(graph: Graph) -> Graph:
    """Leaves out layers without a top, and in TEST losses and scores without labels.

    Before: data, label = Data; fc8 = ...(data); loss = SoftmaxWithLoss(fc8, label)
    After:  data = Data; fc8 = ...(data), and fc8 is an output.

    Labels are blobs that a data layer reads from disk and that no layer with weights
    reads, directly or through other layers. What reads a loss that is left out is left
    out too. A loss stays if its labels come from an Input, or if a tap depends on it.
    In either phase, layers that only training uses and that are not converted are left
    out, unless weights depend on them.
    """
    nodes = [node for node in graph.nodes if node.outputs]
    without_top = [node for node in graph.nodes if not node.outputs]
    dropped = [Dropped(node, "it has no top") for node in without_top]
    training = graph.phase != "TEST"
    labels = label_values(graph)
    reasons = _reasons(graph, nodes, set() if training else labels)
    if training and not reasons:
        return _without(graph, nodes, dropped, ())

    nodes = [node for node in nodes if node.number not in reasons]
    removed = [node for node in graph.nodes if node.number in reasons]
    dropped += [Dropped(node, reasons[node.number]) for node in removed]

    not_computed = {value for node in removed for value in node.outputs} | labels
    read = {value for node in nodes for value in node.inputs}
    last = removed if training else (*removed, *without_top)
    unread = [value for node in last for value in node.inputs]
    kept = [v for v in unread if v not in read and v not in not_computed]
    needs_outputs = reasons or not any(
        _is_returned(node, graph) for node in (*graph.inputs, *nodes)
    )
    done = _without(graph, nodes, dropped, kept if needs_outputs else ())
    if not training:
        return done
    left = (f"{n.span}: {n.name!r} is left out: {reasons[n.number]}" for n in removed)
    return done.with_notes(*left)


def _reasons(graph: Graph, nodes: list[Node], labels: set[Value]) -> dict[int, str]:
    """Why nodes are left out, by number: losses without labels, and what reads them.

    Nodes that a tap depends on are never left out.
    """
    needed = set(graph.taps)
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
    needed_by_weights = _needed_by_weights(nodes)
    reasons: dict[int, str] = {}
    removed: set[Value] = set()
    for node in nodes:
        if not needed.isdisjoint(node.outputs):
            continue
        if isinstance(node.layer, NotConverted) and needed_by_weights.isdisjoint(
            node.outputs
        ):
            reasons[node.number] = (
                f"{node.type or node.layer.type} serves training alone"
            )
        elif node.layer.metric and not labels.isdisjoint(node.inputs):
            reasons[node.number] = "its labels come from a data layer"
        elif not removed.isdisjoint(node.inputs):
            reasons[node.number] = "it reads a layer that is left out"
        else:
            continue
        removed.update(node.outputs)
    return reasons


def _needed_by_weights(nodes: list[Node]) -> set[Value]:
    """Values that layers with weights depend on."""
    needed: set[Value] = set()
    for node in reversed(nodes):
        if _has_weights(node.layer) or not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
    return needed


def _is_returned(node: Node, graph: Graph) -> bool:
    return not graph.returned.isdisjoint(node.outputs)


def label_values(graph: Graph) -> set[Value]:
    """Values computed from the tops of data layers by layers without weights, where no
    layer with weights reads those tops."""
    sources = [node for node in graph.inputs if _is_training_data(node.layer)]
    origin: dict[Value, set[Value]] = {
        value: {value} for node in sources for value in node.outputs
    }
    needed_by_weights: set[Value] = set()
    for node in graph.nodes:
        known = [origin.get(value) for value in node.inputs]
        roots = set().union(*(roots for roots in known if roots))
        if _has_weights(node.layer):
            needed_by_weights |= roots
        elif node.inputs and all(roots is not None for roots in known):
            origin.update((value, roots) for value in node.outputs)
    if not needed_by_weights:  # a net without weights: the first top is no label
        needed_by_weights = {node.outputs[0] for node in sources if node.outputs}
    return {value for value, roots in origin.items() if not roots & needed_by_weights}


def _is_training_data(layer: Layer) -> bool:
    return isinstance(layer, Source) and layer.training_data


def _has_weights(layer: Layer) -> bool:
    return type(layer).blobs is not Layer.blobs


def _without(
    graph: Graph, nodes: list[Node], dropped: list[Dropped], unread: Iterable[Value]
) -> Graph:
    """`graph` with these nodes, and without those that only dropped ones read."""
    computed = {value for node in nodes for value in node.outputs}
    computed.update(graph.arguments)
    still = (value for value in graph.outputs if value in computed)
    outputs = _computed(graph, tuple(dict.fromkeys((*still, *unread))))
    needed = set(outputs) | set(graph.taps)
    kept: list[Node] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
        else:
            dropped.append(Dropped(node, "only dropped layers read it"))
    remarks = graph.remarks
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        outputs=outputs,
        remarks=replace(remarks, dropped=(*remarks.dropped, *dropped)),
    )


def _computed(graph: Graph, outputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """Those that a layer computes, where there are any: an input that no layer reads
    is an output of Caffe's net, but of no use as one of a module."""
    given = {value for node in graph.inputs for value in node.outputs}
    return tuple(value for value in outputs if value not in given) or outputs
