"""What counts in the loss that Caffe minimises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from caffe2flax.ir.graph import Graph, Node, Value


def return_losses(graph: Graph) -> Graph:
    """In TRAIN makes an output of every top with a loss_weight, as the total loss is
    the sum over all of them, whatever layers read them.

    Before: fc (loss_weight 3) -> relu, in place -> loss, the only output
    After:  fc_fc_0_split_0 (loss_weight 3) -> relu -> loss; both are outputs

    Where a layer overwrites the top in place, the blob has the name that Caffe gives it
    in the net that it runs.
    """
    if graph.phase != "TRAIN":
        return graph
    renamed = dict(_overwritten(graph))
    blobs = {value.blob: value for value in renamed.values()}
    done = replace(
        graph,
        nodes=tuple(_with(node, renamed) for node in graph.nodes),
        blobs={**graph.blobs, **blobs},
    )
    weighted = [value for node in done.nodes for value, _ in node.weighted]
    notes = (
        f"{node.span}: {value.blob!r} counts {weight:g} times in Caffe's total loss; "
        "total_loss leaves it out, as it is an input and depends on no weights"
        for node in graph.inputs
        for value, weight in node.weighted
    )
    outputs = tuple(dict.fromkeys((*done.outputs, *weighted)))
    return replace(done, outputs=outputs).with_notes(*notes)


def _overwritten(graph: Graph) -> Iterator[tuple[Value, Value]]:
    """Tops that count and that later layers overwrite, and what they become."""
    names = set(graph.blobs)
    for node in graph.nodes:
        for value, _ in node.weighted:
            if value == graph.blobs[value.blob]:
                continue
            top = node.outputs.index(value)
            name = f"{value.blob}_{node.name}_{top}_split_0"
            while name in names:
                name += "_loss"
            names.add(name)
            yield value, Value(name)


def _with(node: Node, renamed: dict[Value, Value]) -> Node:
    def shown(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(renamed.get(value, value) for value in values)

    return replace(node, inputs=shown(node.inputs), outputs=shown(node.outputs))
