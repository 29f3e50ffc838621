"""What only the caller can compute, as from ground truth."""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.ir.abilities import ComputedByCaller
from caffe2flax.ir.graph import Graph, Node


def feed_targets(graph: Graph) -> Graph:
    """Makes inputs of the tops of layers whose work is the caller's.

    Before: rois, labels = ProposalTarget(proposals, gt_boxes); fc6 = ...(rois)
    After:  rois, labels are inputs; proposals, which only it read, are an output.
    """
    fed = [node for node in graph.nodes if _is_fed(node)]
    if not fed:
        return graph
    nodes = [node for node in graph.nodes if not _is_fed(node)]
    read = {v for node in nodes for v in node.inputs} | set(graph.taps)
    made = {v for node in fed for v in node.outputs}
    computed = {v for node in nodes for v in node.outputs}
    asked = [v for node in fed for v in node.inputs if v in computed and v not in read]
    outputs = [v for v in graph.outputs if v not in made]
    notes = (
        f"{node.span}: what {node.layer.type} layer {node.name!r} computes is the "
        f"caller's part: {', '.join(v.blob for v in node.outputs)} are inputs"
        for node in fed
    )
    return replace(
        graph,
        inputs=(*graph.inputs, *(replace(node, inputs=()) for node in fed)),
        nodes=tuple(nodes),
        outputs=tuple(dict.fromkeys((*outputs, *asked))),
    ).with_notes(*notes)


def _is_fed(node: Node) -> bool:
    return isinstance(node.layer, ComputedByCaller)
