"""Tops that only the caller can compute, because they need ground truth."""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.ir.abilities import ComputedByCaller
from caffe2flax.ir.graph import Graph, Node


def targets_to_inputs(graph: Graph) -> Graph:
    """Turns the tops of layers that the caller computes into inputs.

    Before: rois, labels = ProposalTarget(proposals, gt_boxes); fc6 = ...(rois)
    After:  rois, labels are inputs; proposals, which only it read, are an output.
    """
    targets = [node for node in graph.nodes if _is_target(node)]
    if not targets:
        return graph
    nodes = [node for node in graph.nodes if not _is_target(node)]
    read = {v for node in nodes for v in node.inputs} | set(graph.taps)
    tops = {v for node in targets for v in node.outputs}
    computed = {v for node in nodes for v in node.outputs}
    bottoms = [
        v for node in targets for v in node.inputs if v in computed and v not in read
    ]
    outputs = [v for v in graph.outputs if v not in tops]
    notes = (
        f"{node.span}: what {node.layer.type} layer {node.name!r} computes is the "
        f"caller's part: {', '.join(v.blob for v in node.outputs)} are inputs"
        for node in targets
    )
    return replace(
        graph,
        inputs=(*graph.inputs, *(replace(node, inputs=()) for node in targets)),
        nodes=tuple(nodes),
        outputs=tuple(dict.fromkeys((*outputs, *bottoms))),
    ).with_notes(*notes)


def _is_target(node: Node) -> bool:
    return isinstance(node.layer, ComputedByCaller)
