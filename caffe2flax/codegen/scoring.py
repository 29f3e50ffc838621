"""The numbers of classes of a net that can be arguments of its class, and the layers
that depend on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.classes import CLASSES, Classes, Wider
from caffe2flax.codegen.names import argument_names
from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Aligned, Probabilities, WritesMethod
from caffe2flax.ir.classes import PerClass, ScoresByClass
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Layer, Site
from caffe2flax.ir.layout import Operand, Shape

LINEAR = "nnx.Linear"
TRIED = (1009, 1013)
"""Other numbers of classes, to see what follows from one: no extent of a real net is a
multiple of these primes."""
MOST = 200_000
"""Layers, each counted once for each layer that scores classes; a larger net has no
such argument, as to find it takes time that grows with both."""


def find_classes(graph: Graph, *, initialise: bool) -> tuple[Classes, ...]:
    """The numbers of classes that can be arguments: those of layers that score classes,
    and of losses, whose results the net returns, and else that of a last layer."""
    points = list(_points(graph))
    if len(points) * len(graph.nodes) > MOST:
        return ()
    makers = {top: node for node in graph.nodes for top in node.outputs}
    found: dict[int, dict[int, Node]] = {}
    for values, count, exact in points:
        heads = _heads(graph, makers, values, count, exact)
        if heads and _widened(graph, heads, CLASSES, count, initialise):
            found.setdefault(count, {}).update({node.number: node for node in heads})
    done: list[Classes] = []
    names = argument_names(())
    for count, heads_of in found.items():
        heads = sorted(heads_of.values(), key=lambda node: node.number)
        name = CLASSES
        if len(found) > 1:
            name = names.claim(heads[-1].name, suffix="_classes")
        made = _widened(graph, heads, name, count, initialise)
        taken = {number for other in done for number in other.nodes}
        if made and taken.isdisjoint(made.nodes):
            done.append(made)
    return tuple(done)


def _points(graph: Graph) -> Iterator[tuple[Sequence[Value], int, bool]]:
    """Blobs whose sizes follow from a number of classes, this number, and whether each
    class is a channel."""
    left_out = (dropped.node for dropped in graph.remarks.dropped)
    scored = False
    for node in (*graph.nodes, *left_out):
        layer = node.layer
        shape = graph.shapes.get(node.inputs[0]) if node.inputs else None
        if shape is None:
            continue
        if isinstance(layer, ScoresByClass):
            bottoms, count = layer.scored
            yield [node.inputs[i] for i in bottoms], count, False
        elif isinstance(layer, Probabilities) and layer.of_classes:
            yield node.inputs[:1], shape[layer.class_axis(len(shape))], True
        elif layer.metric and _takes_labels(layer, shape):
            yield node.inputs[:1], shape[1], True
        else:
            continue
        scored = True
    if not scored and len(graph.outputs) == 1:
        value = graph.outputs[0]
        shape = graph.shapes[value]
        if len(shape) > 1 and _ends_in_scores(graph, value):
            yield [value], shape[1], True


def _takes_labels(layer: Layer, scores: Shape) -> bool:
    """Whether a loss or a score compares a number for each class with one label, not
    with as many numbers."""
    if len(scores) < 2 or scores[1] < 2:
        return False
    try:
        layer.infer(scores, (scores[0], 1, *scores[2:]))
    except (ConversionError, ValueError, TypeError):
        return False
    return True


def _ends_in_scores(graph: Graph, value: Value) -> bool:
    """Whether the only output is that of a dense layer, or of layers that enlarge a map
    each channel by itself."""
    makers = {top: node for node in graph.nodes for top in node.outputs}
    while value in makers:
        node = makers[value]
        if node.weights:
            site = _site(graph, node, False)
            call = node.layer.build(site)
            if call is None:
                return False
            channels = graph.shapes[value][1:2]
            grouped = call.keywords.get("feature_group_count")
            enlarges = "input_dilation" in call.keywords and channels == (grouped,)
            return call.function == LINEAR or enlarges
        if len(node.inputs) != 1 and not isinstance(node.layer, Aligned):
            return False
        value = node.inputs[0]
    return False


def _heads(
    graph: Graph,
    makers: Mapping[Value, Node],
    values: Sequence[Value],
    count: int,
    exact: bool,
) -> list[Node]:
    """The layers with weights that blobs of scores come from. exact: each class is a
    channel, so that a layer of a multiple of `count` channels is none of them."""
    heads: dict[int, Node] = {}
    seen: set[Value] = set()
    pending = [(value, exact) for value in values]
    while pending:
        at, direct = pending.pop()
        if at in seen or at not in makers:
            continue
        seen.add(at)
        node = makers[at]
        layer = node.layer
        other = (
            layer.with_classes(count, TRIED[0]) if isinstance(layer, PerClass) else None
        )
        if not node.weights:
            inputs = node.inputs[:1] if isinstance(layer, Aligned) else node.inputs
            pending += [(v, direct and other is None) for v in inputs]
            continue
        if other is None or (direct and count not in graph.shapes[at][1:]):
            continue
        heads[node.number] = node
        try:
            other.infer(*(graph.shapes[v] for v in node.inputs))
        except ConversionError:  # its bottom has a channel for each class, too
            pending += [(v, direct) for v in node.inputs]
    return list(heads.values())


def _widened(
    graph: Graph, heads: Sequence[Node], name: str, count: int, initialise: bool
) -> Classes | None:
    """The net under another number of classes of these heads; None where some layer
    cannot be written so."""
    other = next(number for number in TRIED if number != count)
    numbers = {node.number for node in heads}
    known: dict[Value, Operand] = {}
    nodes: dict[int, Wider] = {}
    made = Classes(name, count, other, nodes, tuple(sorted(numbers)))
    called = False
    for node in dropwhile(lambda node: node.number not in numbers, graph.nodes):
        follows = not known.keys().isdisjoint(node.inputs)
        if not follows and node.number not in numbers:
            continue
        if isinstance(node.layer, BlockCall | WritesMethod):
            return None
        if node.weights and node.number not in numbers:
            return None
        inputs = tuple(known.get(v) or graph.operand(v) for v in node.inputs)
        layer = node.layer
        if isinstance(layer, PerClass):
            layer = layer.with_classes(count, other) or layer
        outputs = _outputs(layer, inputs)
        if outputs is None:
            return None
        nodes[node.number] = Wider(layer, inputs, outputs)
        known |= dict(zip(node.outputs, outputs, strict=True))
        site = _site(graph, node, initialise)
        if not made.suits(node, site):
            return None
        called |= made.expression(node, site) != node.layer.call(site)
    return replace(made, called=called)


def _outputs(layer: Layer, inputs: Sequence[Operand]) -> tuple[Operand, ...] | None:
    """The tops of a layer as they are emitted; None where it does not take these
    bottoms."""
    try:
        shapes = layer.infer(*(operand.shape for operand in inputs))
        scaled = layer.infer(*(operand.scaled for operand in inputs))
        plan = layer.layouts(*inputs)
    except (ConversionError, ValueError):
        return None
    if plan.inputs != tuple(operand.layout for operand in inputs):
        return None
    return tuple(map(Operand, shapes, plan.outputs, scaled))


def _site(graph: Graph, node: Node, initialise: bool) -> Site:
    return Site(
        tuple(map(graph.operand, node.inputs)),
        tuple(map(graph.operand, node.outputs)),
        "module",
        tuple(f"x_{i}" for i in range(len(node.inputs))),
        initialise,
    )
