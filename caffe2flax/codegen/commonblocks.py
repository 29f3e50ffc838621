"""Repeated blocks of a net that training, tests and the deployed net have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.blocks import Factored, factor
from caffe2flax.codegen.names import Namespace
from caffe2flax.codegen.trunk import Trunk
from caffe2flax.ir.graph import Graph, Weight
from caffe2flax.passes.blocks import Block, find_blocks


@dataclass(frozen=True, slots=True)
class Blocks:
    """The nets with one call instead of each block; `factored` is the first of them,
    with the classes of the blocks."""

    graphs: Sequence[Graph]
    factored: Factored
    classes: tuple[str, ...] = field(default=())


def factor_alike(graphs: Sequence[Graph], trunk: Trunk, names: Namespace) -> Blocks:
    """Turns blocks that all of `graphs` have into classes, named through `names`."""
    first, *others = graphs
    plain = Blocks(graphs, Factored(first))
    weights: dict[int, tuple[Weight, ...]] = {}
    for graph in graphs:
        for node in graph.nodes:
            weights.setdefault(node.number, node.weights)
    uses = Counter(weight for each in weights.values() for weight in each)
    alone = {n for n, own in weights.items() if all(uses[w] == 1 for w in own)}
    blocks = [
        block
        for block in find_blocks(first)
        if alone.issuperset(block.nodes)
        and all(_is_closed(block, graph, trunk) for graph in graphs)
    ]
    factored = factor(first, blocks, names, initialise=True, zeros=True)
    if not factored.classes:
        return plain
    done = [factored.graph, *(_with_calls(graph, first, factored) for graph in others)]
    if not all(map(_in_order, done)):
        return plain
    return Blocks(done, factored, factored.classes)


def _is_closed(block: Block, graph: Graph, trunk: Trunk) -> bool:
    """Whether `graph` has the block and reads no more of it than its output."""
    inside = [node for node in graph.nodes if node.number in block.nodes]
    if not all(map(trunk.has, inside)) or not trunk.values.issuperset(block.inputs):
        return False
    if any(node.weighted for node in inside):
        return False
    values = {value for node in inside for value in node.outputs} - {block.output}
    outside = (node for node in graph.nodes if node.number not in block.nodes)
    read = {value for node in outside for value in node.inputs}
    return values.isdisjoint(read | graph.returned)


def _with_calls(graph: Graph, first: Graph, factored: Factored) -> Graph:
    """`graph` with the calls that `factored` has instead of nodes of `first`."""
    made = factored.graph.nodes
    calls = {n.number: n for n in made if isinstance(n.layer, BlockCall)}
    kept = {n.number for n in made if n.number not in calls}
    inside = {n.number for n in first.nodes if n.number not in kept}
    nodes = [
        calls.get(node.number, node)
        for node in graph.nodes
        if node.number in calls or node.number not in inside
    ]
    return replace(graph, nodes=tuple(nodes))


def _in_order(graph: Graph) -> bool:
    """Whether every value is computed before it is read."""
    known = set(graph.arguments)
    for node in graph.nodes:
        if not known.issuperset(node.inputs):
            return False
        known.update(node.outputs)
    return True
