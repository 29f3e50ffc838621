"""Caffe's rounding and pads settled against XLA's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from caffe2flax.ir.graph import Graph, Node
from caffe2flax.ir.window import Padding


def reconcile_padding(graph: Graph) -> Graph:
    """Gives every windowed layer the padding that is emitted.

    Before: Convolution(kernel 7, stride 2, pad 3)
    After:  the same with padding ((3, 3), (3, 3)), where SAME would have padded (2, 3)

    The arithmetic is `ir/window.py`.
    """
    padded = {
        node.number: replace(node, layer=node.layer.with_padding(padding))
        for node, padding in paddings(graph)
    }
    nodes = (padded.get(node.number, node) for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def paddings(graph: Graph) -> Iterator[tuple[Node, Padding]]:
    """The windowed layers, each with what Caffe pads, what SAME would have padded and
    what is emitted."""
    for node in graph.nodes:
        if node.inputs:
            shape, out = graph.shapes[node.inputs[0]], graph.shapes[node.outputs[0]]
            padding = node.layer.windows(shape, out)
            if padding is not None:
                yield node, padding
