"""Constants of a network that its users change, as arguments of the class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.calls import Call, parse_call
from caffe2flax.codegen.names import Namespace
from caffe2flax.ir.graph import Graph, Node

CLASSES = "num_classes"
HEADS = {
    "nnx.Linear": "InnerProduct",
    "nnx.Conv": "Convolution",
}
DROPOUT = "nnx.Dropout"


class Option(NamedTuple):
    """`name: type_ = default` of a constructor; `head`: the layer whose width it is."""

    name: str
    type_: str
    default: str
    head: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.type_} = {self.default}"


def find_options(body: Body, graph: Graph) -> tuple[Option, ...]:
    """The number of classes and the dropout ratios of `graph`, whose layers `body` has;
    `body.built` reads them then.

    Before: self.drop7 = nnx.Dropout(0.5); self.fc8 = nnx.Linear(4096, 1000, ...)
    After:  self.drop7 = nnx.Dropout(dropout)
            self.fc8 = nnx.Linear(4096, num_classes, ...)
    """
    calls = [parse_call(attribute, text) for attribute, text in body.built]
    found = [*_classes(body, graph, calls), *_dropouts(calls)]
    for i, (_, option, slot) in enumerate(found):
        at = found[i][0]
        call = calls[at]
        assert call is not None
        positional = list(call.positional)
        positional[slot] = option.name
        calls[at] = call._replace(positional=tuple(positional))
    for i, call in enumerate(calls):
        if call is not None:
            body.built[i] = (call.attribute, call.expression())
    return tuple(dict.fromkeys(option for _, option, _ in found))


Place = tuple[int, Option, int]
"""The number of a call, what it is given, and where."""


def _classes(body: Body, graph: Graph, calls: Sequence[Call | None]) -> list[Place]:
    """The width of the last layer with weights, where it is a classifier's."""
    if len(graph.outputs) != 1 or graph.taps:
        return []
    last = next((n for n in reversed(graph.nodes) if n.number in body.attributes), None)
    if last is None or not _leads_out(last, graph):
        return []
    attribute = body.attributes[last.number]
    for i, call in enumerate(calls):
        if call is None or call.attribute != attribute or call.func not in HEADS:
            continue
        if "feature_group_count" in call.keywords or "kernel_init" in call.keywords:
            return []
        width = call.positional[1]
        if any(re.search(rf"\b{width}\b", s.expression) for s in body.statements):
            return []
        return [(i, Option(CLASSES, "int", width, attribute), 1)]
    return []


def _leads_out(last: Node, graph: Graph) -> bool:
    """Whether all behind `last` is one chain to a distribution or to scores."""
    nodes = graph.nodes[graph.nodes.index(last) :]
    chain = all(
        later.inputs == node.outputs and len(later.outputs) == 1
        for node, later in pairwise(nodes)
    )
    kinds = {node.layer.type for node in nodes}
    scores = last.layer.type == "InnerProduct" or "Softmax" in kinds
    reshaped = kinds & {"Reshape", "Slice", "Permute", "Crop", "Tile"}
    return chain and scores and not reshaped and graph.outputs == nodes[-1].outputs


def _dropouts(calls: Sequence[Call | None]) -> list[Place]:
    """One ratio for all where they agree, one for each layer elsewhere."""
    found = [(i, call) for i, call in enumerate(calls) if call and call.func == DROPOUT]
    ratios = {call.positional[0] for _, call in found}
    one = len(ratios) == 1
    names = Namespace([CLASSES])
    return [
        (
            i,
            Option(
                "dropout" if one else names.claim(call.attribute),
                "float",
                call.positional[0],
            ),
            0,
        )
        for i, call in found
    ]
