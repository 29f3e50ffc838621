"""Repeated blocks: groups of nodes that are the same up to a number in their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from caffe2flax.ir.abilities import WritesMethod
from caffe2flax.ir.graph import Graph, Node, Value, Weight

_NUMBERED = re.compile(
    r"([A-Za-z]+(?:[_-][A-Za-z]+)*?)[_-]?(\d+[a-z]?\d*(?:_\d+)?)(?=$|[/_.-])"
)
"""`inception_3a/1x1`, `res2a_branch2b`, `conv2_1/dw`, `fire3/squeeze1x1`: a stem, a
number, the rest."""

LEAST_MODULES = 2
"""Layers with weights that a block must have: a single convolution is clearer without a
class of its own."""


@dataclass(frozen=True, slots=True)
class Block:
    """A group of nodes that occurs more than once, up to the values of its attributes.

    name: the part of Caffe's names that its layers share. names and blobs: the rest of
    the names of its nodes and of their outputs. Blocks of the same `kind` have the same
    layer types with the same connections.
    """

    name: str
    stem: str
    nodes: tuple[int, ...]
    inputs: tuple[Value, ...]
    output: Value
    names: tuple[str, ...]
    blobs: Mapping[Value, str]
    kind: tuple[object, ...]


class _Name(NamedTuple):
    stem: str
    key: str
    rest: str


def find_blocks(graph: Graph) -> tuple[Block, ...]:
    """Groups of nodes that occur more than once.

    Of inception_3a/1x1, inception_3a/3x3, ..., inception_3b/1x1, ... these are
    inception_3a, inception_3b, ..., of one kind.

    Adjacent nodes with the same number in their names form a group. Groups are of one
    kind if they have the same layer types, the same connections, and the same names but
    for the number. A group is a block if only one of its values is read outside, no
    other is an output or a tap, and it shares no weights with the rest. A net with a
    layer that is a method of the class (`WritesMethod`) has no blocks: the method
    belongs to one class.
    """
    if any(isinstance(node.layer, WritesMethod) for node in graph.nodes):
        return ()
    groups = [
        tuple(nodes)
        for key, nodes in groupby(graph.nodes, key=lambda node: _named(node.name).key)
        if key
    ]
    uses = _Uses.of(graph)
    whole = [_block(nodes, uses) for nodes in groups]
    counts = Counter(block.kind for block in whole if block)
    lengths = {len(block.nodes) for block in whole if block and counts[block.kind] > 1}
    kept = []
    for nodes, block in zip(groups, whole, strict=True):
        # The layers after a block may have its number too, as pool3 after fire3.
        heads = (_block(nodes[:n], uses) for n in sorted(lengths) if n < len(nodes))
        fitting = [x for x in (block, *heads) if x and counts[x.kind] > 1]
        if fitting:
            kept.append(max(fitting, key=lambda x: counts[x.kind]))
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Uses:
    """The readers of each value, what the module returns, and how many nodes have each
    weight."""

    readers: Mapping[Value, tuple[Node, ...]]
    returned: frozenset[Value]
    weights: Mapping[Weight, int]

    @classmethod
    def of(cls, graph: Graph) -> _Uses:
        weights = Counter(w for node in graph.nodes for w in node.weights)
        return cls(graph.readers(), graph.returned, weights)

    def is_read_outside(self, value: Value, numbers: set[int]) -> bool:
        if value in self.returned:
            return True
        readers = self.readers.get(value, ())
        return any(node.number not in numbers for node in readers)


def _named(name: str) -> _Name:
    match = _NUMBERED.match(name[:200])
    if match is None:
        return _Name("", "", name)
    return _Name(match[1], match[2], name[match.end() :].strip("/_.-"))


def _block(nodes: tuple[Node, ...], uses: _Uses) -> Block | None:
    """The group as a block; None where it cannot be one."""
    if sum(bool(node.weights) for node in nodes) < LEAST_MODULES:
        return None
    if any(node.carried for node in nodes):
        return None  # states are arguments of the net's class only
    numbers = {node.number for node in nodes}
    computed = {value for node in nodes for value in node.outputs}
    results = [value for value in computed if uses.is_read_outside(value, numbers)]
    inputs = tuple(
        dict.fromkeys(v for node in nodes for v in node.inputs if v not in computed)
    )
    shared = any(uses.weights[w] > 1 for node in nodes for w in node.weights)
    match = _NUMBERED.match(nodes[0].name)
    if len(results) != 1 or not inputs or shared or match is None:
        return None
    (output,) = results
    stem = _named(nodes[0].name).stem
    locals_ = {v: _local(v.blob, stem) for node in nodes for v in node.outputs}
    return Block(
        name=nodes[0].name[: match.end()],
        stem=stem,
        nodes=tuple(node.number for node in nodes),
        inputs=inputs,
        output=output,
        names=tuple(_local(node.name, stem) for node in nodes),
        blobs=locals_,
        kind=_kind(nodes, inputs, output, locals_),
    )


def _local(name: str, stem: str) -> str:
    """`name` without the name of the block: `1x1` of `inception_3a/1x1`, `bn_branch2a`
    of `bn2a_branch2a` in a block with the stem `res`."""
    parts = _named(name)
    if not parts.key:
        return name
    own = parts.stem == stem
    return parts.rest if own else "_".join(filter(None, (parts.stem, parts.rest)))


def _kind(
    nodes: Sequence[Node],
    inputs: tuple[Value, ...],
    output: Value,
    locals_: dict[Value, str],
) -> tuple[object, ...]:
    """What two blocks of one kind have in common: types, connections, names."""
    places: dict[Value, object] = {value: i for i, value in enumerate(inputs)}
    rows: list[object] = []
    for i, node in enumerate(nodes):
        wires = tuple(places[value] for value in node.inputs)
        for j, value in enumerate(node.outputs):
            places[value] = (i, j)
        blobs = tuple((locals_[value], value.version) for value in node.outputs)
        rows.append((type(node.layer), wires, blobs, len(node.weights)))
    return (*rows, places[output])
