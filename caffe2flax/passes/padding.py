"""Caffe's rounding and pads settled against XLA's."""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.ir.abilities import Windowed
from caffe2flax.ir.graph import Graph


def reconcile_padding(graph: Graph) -> Graph:
    """Decides for every windowed layer what padding is emitted, and keeps it on the
    graph.

    Before: Convolution(kernel 7, stride 2, pad 3)
    After:  the same with padding ((3, 3), (3, 3)), where SAME would have padded (2, 3)

    The arithmetic is `layers/window.py`.
    """
    decided = {}
    nodes = []
    for node in graph.nodes:
        if isinstance(node.layer, Windowed):
            shape, out = graph.shapes[node.inputs[0]], graph.shapes[node.outputs[0]]
            padding = node.layer.windows(shape, out)
            decided[node.name] = padding
            node = replace(node, layer=node.layer.with_padding(padding))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), padding=decided)
