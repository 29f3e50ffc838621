"""How layers are written that depend on a number of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from caffe2flax.ir.abilities import Probabilities
from caffe2flax.ir.call import Call, Code, is_literal, literal
from caffe2flax.ir.graph import Node
from caffe2flax.ir.layer import Layer, Site
from caffe2flax.ir.layout import Operand

CLASSES = "num_classes"
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
