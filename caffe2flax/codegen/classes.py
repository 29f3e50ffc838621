"""The numbers of classes of a net, as arguments of its class: which layers depend on
one, and how their code is written then."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.names import identifier
from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Aligned, Probabilities, WritesMethod
from caffe2flax.ir.call import Call, Code, is_literal, literal
from caffe2flax.ir.classes import PerClass, ScoresByClass
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Layer, Site
from caffe2flax.ir.layout import Operand

CLASSES = "num_classes"
LINEAR = "nnx.Linear"
TRIED = (1009, 1013)
"""Other numbers of classes, to see what follows from one: no extent of a real net is a
multiple of these primes."""
MANY = 64
"""Layers that score classes; a net with more of them has no such argument."""
NUMBER = re.compile(r"(?<![\w.])(\d+)(?![\w.])")


class Wider(NamedTuple):
    """What a node would be under another number of classes."""

    layer: Layer
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Classes:
    """An argument `name` of the class, `count` by default. nodes: what depends on it,
    by number, under `other` classes. heads: the numbers of those with weights. called:
    whether the calls of the module read it."""

    name: str
    count: int
    other: int
    nodes: Mapping[int, Wider]
    heads: tuple[int, ...]
    called: bool = False

    def expression(self, node: Node, site: Site) -> str:
        """The node's expression, with an attribute of the module for its classes."""
        text = node.layer.call(site)
        found = self.nodes.get(node.number)
        if found is None:
            return text
        wider = replace(site, inputs=found.inputs, outputs=found.outputs)
        made = self._joined(text, found.layer.call(wider), f"self.{self.name}")
        assert made is not None, f"{node.name} was checked before"
        return made

    def build(self, node: Node, site: Site) -> Call | None:
        """The call that makes the node's nnx module, with the argument in it."""
        call, found = node.layer.build(site), self.nodes.get(node.number)
        if call is None or found is None:
            return call
        wider = replace(site, inputs=found.inputs, outputs=found.outputs)
        made = self._joined_calls(call, found.layer.build(wider))
        assert made is not None, f"{node.name} was checked before"
        return made

    def suits(self, node: Node, site: Site) -> bool:
        """Whether the code of the node can be written for any number of classes."""
        found = self.nodes[node.number]
        wider = replace(site, inputs=found.inputs, outputs=found.outputs)
        text, other = node.layer.call(site), found.layer.call(wider)
        if isinstance(node.layer, Probabilities):
            return text == other
        call = node.layer.build(site)
        built = call is None or self._joined_calls(call, found.layer.build(wider))
        return bool(built) and self._joined(text, other, self.name) is not None

    def _joined_calls(self, call: Call, other: Call | None) -> Call | None:
        if other is None or call.keywords.keys() != other.keywords.keys():
            return None
        args = tuple(map(self._argument, call.args, other.args))
        pairs = ((k, v, other.keywords[k]) for k, v in call.keywords.items())
        keywords = {key: self._argument(*values) for key, *values in pairs}
        same = call.function == other.function and call.comment == other.comment
        if not same or None in (*args, *keywords.values()):
            return None
        return replace(call, args=args, keywords=keywords)

    def _argument(self, value: object, other: object) -> object:
        if value == other:
            return value
        if not (is_literal(value) and is_literal(other)):
            return None
        text = self._joined(literal(value), literal(other), self.name)
        return None if text is None else Code(text)

    def _joined(self, text: str, other: str, name: str) -> str | None:
        """`text` with `name` for the numbers that grow with it; None where the texts
        differ otherwise."""
        parts, others = NUMBER.split(text), NUMBER.split(other)
        if parts[::2] != others[::2]:
            return None
        for i in range(1, len(parts), 2):
            number, grown = int(parts[i]), int(others[i])
            if number == grown:
                continue
            times, rest = divmod(number, self.count)
            if rest or grown != times * self.other:
                return None
            alone = parts[i - 1][-1:] in ("", "(", " ", "=")
            alone &= parts[i + 1][:1] in ("", ")", ",")
            product = f"{times} * {name}" if alone else f"({times} * {name})"
            parts[i] = name if times == 1 else product
        return "".join(parts)


def find_classes(graph: Graph, *, initialise: bool) -> tuple[Classes, ...]:
    """The numbers of classes that can be arguments: those of layers that score classes,
    and of losses, whose results the net returns, and else that of a last layer."""
    points = list(_points(graph))
    if len(points) > MANY:
        return ()
    makers = {top: node for node in graph.nodes for top in node.outputs}
    found: dict[int, dict[int, Node]] = {}
    for value, count, exact in points:
        heads = _heads(graph, makers, value, count, exact)
        if heads and _widened(graph, heads, CLASSES, count, initialise):
            found.setdefault(count, {}).update({node.number: node for node in heads})
    done: list[Classes] = []
    for count, heads_of in found.items():
        heads = sorted(heads_of.values(), key=lambda node: node.number)
        name = CLASSES
        if len(found) > 1:
            name = f"{identifier(heads[-1].name)}_classes"
        made = _widened(graph, heads, name, count, initialise)
        taken = {number for other in done for number in other.nodes}
        names = {other.name for other in done}
        if made and taken.isdisjoint(made.nodes) and made.name not in names:
            done.append(made)
    return tuple(done)


def _points(graph: Graph) -> Iterator[tuple[Value, int, bool]]:
    """Blobs with a score for each class, how many there are, and whether each is a
    channel."""
    left_out = (dropped.node for dropped in graph.remarks.dropped)
    scored = False
    for node in (*graph.nodes, *left_out):
        layer = node.layer
        if not all(value in graph.shapes for value in node.inputs[:2]):
            continue
        shapes = [graph.shapes[value] for value in node.inputs[:2]]
        if isinstance(layer, ScoresByClass):
            bottoms, count = layer.scored
            yield from ((node.inputs[i], count, False) for i in bottoms)
            scored = True
        elif isinstance(layer, Probabilities) and layer.of_classes:
            axis = layer.class_axis(len(shapes[0]))
            yield node.inputs[0], shapes[0][axis], True
            scored = True
        elif layer.metric and len(shapes) > 1 and len(shapes[0]) > 1:
            yield node.inputs[0], shapes[0][1], True
            scored = True
    if not scored and len(graph.outputs) == 1:
        value = graph.outputs[0]
        shape = graph.shapes[value]
        if len(shape) > 1 and _ends_in_scores(graph, value):
            yield value, shape[1], True


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
    graph: Graph, makers: Mapping[Value, Node], value: Value, count: int, exact: bool
) -> list[Node]:
    """The layers with weights that a blob of scores comes from. exact: each class is a
    channel, so that a layer of a multiple of `count` channels is none of them."""
    heads: dict[int, Node] = {}
    seen: set[Value] = set()
    pending = [(value, exact)]
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
    for node in graph.nodes:
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


def written(classes: Iterable[Classes], node: Node, site: Site) -> str:
    """The expression of a node."""
    for each in classes:
        if node.number in each.nodes:
            return each.expression(node, site)
    return node.layer.call(site)


def built(classes: Iterable[Classes], node: Node, site: Site) -> Call | None:
    """The call that makes the nnx module of a node."""
    for each in classes:
        if node.number in each.nodes:
            return each.build(node, site)
    return node.layer.build(site)
