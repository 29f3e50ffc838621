"""Padding for XLA that gives Caffe's sizes and windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from caffe2flax.ir.abilities import Windowed
from caffe2flax.ir.graph import Graph, Node
from caffe2flax.ir.window import Padding


def reconcile_padding(graph: Graph) -> Graph:
    """Gives every windowed layer its padding in generated code.

    Before: Convolution(kernel 7, stride 2, pad 3)
    After:  the same with padding ((3, 3), (3, 3)), where SAME would have padded (2, 3)

    The arithmetic is `ir/window.py`.
    """
    padded = {
        node.number: replace(node, layer=layer.with_padding(padding))
        for node, layer, padding in _windowed(graph)
    }
    nodes = (padded.get(node.number, node) for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def paddings(graph: Graph) -> Iterator[tuple[Node, Padding]]:
    """The windowed layers, each with Caffe's padding, that of SAME and the emitted
    one."""
    return ((node, padding) for node, _, padding in _windowed(graph))


def _windowed(graph: Graph) -> Iterator[tuple[Node, Windowed, Padding]]:
    for node in graph.nodes:
        if isinstance(node.layer, Windowed):
            shape, out = graph.shapes[node.inputs[0]], graph.shapes[node.outputs[0]]
            yield node, node.layer, node.layer.windows(shape, out)
