"""Constants of a network that its users change, as arguments of the class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.calls import Assignment
from caffe2flax.codegen.names import argument_names
from caffe2flax.ir.abilities import Probabilities, Rearranges
from caffe2flax.ir.call import Call, Code, literal
from caffe2flax.ir.graph import Graph, Node

CLASSES = "num_classes"
LINEAR = "nnx.Linear"
HEADS = (LINEAR, "nnx.Conv")
DROPOUT = "nnx.Dropout"


class Option(NamedTuple):
    """`name: type_ = default` of a constructor; `head`: the layers whose width it is,
    with blanks between them."""

    name: str
    type_: str
    default: str
    head: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.type_} = {self.default}"


Use = tuple[int, Option, int]
"""The number of a call, the option, and which argument of the call it is."""


def find_options(body: Body, graph: Graph) -> tuple[Option, ...]:
    """The number of classes and the dropout ratios of `graph`, whose layers `body` has;
    `body.built` reads them then.

    Before: self.drop7 = nnx.Dropout(0.5); self.fc8 = nnx.Linear(4096, 1000, ...)
    After:  self.drop7 = nnx.Dropout(dropout)
            self.fc8 = nnx.Linear(4096, num_classes, ...)
    """
    return take_options(body, [*_classes(body, graph), *dropouts(body.built)])


def take_options(body: Body, found: Sequence[Use]) -> tuple[Option, ...]:
    """The options of `found`; `body.built` reads them then."""
    for at, option, slot in found:
        attribute, call = body.built[at]
        body.built[at] = Assignment(attribute, _reading(call, option, slot))
    return tuple(dict.fromkeys(option for _, option, _ in found))


def _reading(call: Call, option: Option, slot: int) -> Call:
    """The call with an option as its argument number `slot`."""
    args = list(call.args)
    args[slot] = Code(option.name)
    return replace(call, args=tuple(args))


def _classes(body: Body, graph: Graph) -> list[Use]:
    """The width of the last layer with weights, where it is a classifier's."""
    if len(graph.outputs) != 1 or graph.taps:
        return []
    last = next((n for n in reversed(graph.nodes) if n.number in body.attributes), None)
    if last is None:
        return []
    attribute = body.attributes[last.number]
    for i, (name, call) in enumerate(body.built):
        if name != attribute or call.function not in HEADS:
            continue
        if not _leads_out(last, call, graph):
            return []
        if "feature_group_count" in call.keywords or "kernel_init" in call.keywords:
            return []
        width = literal(call.args[1])
        if any(re.search(rf"\b{width}\b", s.expression) for s in body.statements):
            return []
        return [(i, Option(CLASSES, "int", width, attribute), 1)]
    return []


def _leads_out(last: Node, call: Call, graph: Graph) -> bool:
    """Whether all behind `last`, whose module `call` makes, is one chain to a
    distribution or to scores."""
    nodes = graph.nodes[graph.nodes.index(last) :]
    chain = all(
        later.inputs == node.outputs and len(later.outputs) == 1
        for node, later in pairwise(nodes)
    )
    layers = [node.layer for node in nodes]
    scores = call.function == LINEAR or any(map(_is_distribution, layers))
    reshaped = any(isinstance(layer, Rearranges) for layer in layers)
    return chain and scores and not reshaped and graph.outputs == nodes[-1].outputs


def _is_distribution(layer: object) -> bool:
    return isinstance(layer, Probabilities) and layer.of_classes


def dropouts(built: Sequence[Assignment]) -> list[Use]:
    """One ratio for all where they agree, one for each layer elsewhere."""
    found = [
        (i, attribute, literal(call.args[0]))
        for i, (attribute, call) in enumerate(built)
        if call.function == DROPOUT
    ]
    names = argument_names((call for _, call in built), CLASSES)
    ratios = {ratio for _, _, ratio in found}
    one = names.take("dropout") if len(ratios) == 1 else ""
    return [
        (i, Option(one or names.take(attribute), "float", ratio), 0)
        for i, attribute, ratio in found
    ]
