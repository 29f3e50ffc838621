"""The generated module's source, read back: the lines of its layers, and probes in it.

Positions are by class, attribute and statement; lines follow from the source as it is,
formatted or edited.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from caffe2flax.codegen.positions import NodePosition, NodePositions
from caffe2flax.ir.syntax import parse_expression, parse_module

PROBE = "_probe"
"""No name in generated source starts with an underscore."""


class Lines(NamedTuple):
    """Lines of the source, both included, counted from 1."""

    first: int
    last: int

    def __contains__(self, line: object) -> bool:
        return isinstance(line, int) and self.first <= line <= self.last

    def __str__(self) -> str:
        return (
            f"{self.first}-{self.last}" if self.last > self.first else f"{self.first}"
        )


class Where(NamedTuple):
    """The lines of one node: what makes its nnx module and what calls it, in its class;
    for a node of a block, what makes the block and what calls that. `title`: the line
    of its class."""

    call: Lines | None
    build: Lines | None = None
    outer_call: Lines | None = None
    outer_build: Lines | None = None
    title: int = 0

    @property
    def all(self) -> tuple[Lines, ...]:
        found = (self.build, self.call, self.outer_build, self.outer_call)
        return tuple(lines for lines in found if lines)


@dataclass(frozen=True, slots=True)
class _Class:
    line: int
    attributes: Mapping[str, Lines] = field(default_factory=dict)
    statements: tuple[ast.Assign | ast.Return, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceMap:
    """A generated module as text and as a tree; `main` is the class of the net."""

    source: str
    main: str
    tree: ast.Module
    classes: Mapping[str, _Class]

    @classmethod
    def of(cls, source: str, main: str) -> SourceMap:
        tree = parse_module(source)
        found = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
        return cls(source, main, tree, {k: _read(v) for k, v in found.items()})

    def where(self, position: NodePosition) -> Where:
        """The lines of a node; None for those that an edited module does not have."""
        own, main = self.classes.get(position.cls), self.classes.get(self.main)
        if own is None or main is None:
            return Where(None)
        call = _lines(own, position.call.statement)
        build = own.attributes.get(position.attribute.partition(".")[0])
        if position.outer is None:
            return Where(call, build, title=own.line)
        block = main.attributes.get(position.path.partition(".")[0])
        return Where(call, build, _lines(main, position.outer), block, own.line)


class Probe(NamedTuple):
    """What a probe hands on: the value that instance `path` computes at `key`."""

    path: str
    key: str


def probed(
    source: SourceMap, positions: NodePositions
) -> tuple[ast.Module, Mapping[int, Probe]]:
    """The module with a call of `_probe(self, key, value)`, which returns `value`,
    around the call of every node, and the probe of each node by its number.

    Before: conv1 = nnx.relu(self.conv1(data))
    After:  conv1 = _probe(self, "1", nnx.relu(_probe(self, "0", self.conv1(data))))

    A node whose call is not found in an edited module has no probe.
    """
    tree = SourceMap.of(source.source, source.main)
    statements: dict[tuple[str, str, int], list[tuple[int, str]]] = {}
    for number, position in positions.items():
        at = (position.cls, position.path, position.call.statement)
        statements.setdefault(at, []).append((number, position.call.expression))
    keys: dict[tuple[str, int], list[str | None]] = {}
    probes: dict[int, Probe] = {}
    for (cls, path, index), nodes in statements.items():
        if (cls, index) not in keys:
            known = tree.classes.get(cls)
            found = known.statements if known else ()
            texts = [text for _, text in nodes]
            keys[cls, index] = (
                _wrap(found[index], texts, f"{cls}:{index}")
                if index < len(found)
                else [None] * len(nodes)
            )
        for (number, _), key in zip(nodes, keys[cls, index], strict=True):
            if key is not None:
                probes[number] = Probe(path, key)
    return ast.fix_missing_locations(tree.tree), probes


def _wrap(
    statement: ast.Assign | ast.Return, texts: list[str], prefix: str
) -> list[str | None]:
    """Puts probes into `statement`, from the outside in; their keys, None where a call
    is not found."""
    keys: list[str | None] = [None] * len(texts)
    for i in reversed(range(len(texts))):
        key = f"{prefix}:{i}"
        if i == len(texts) - 1:
            assert statement.value is not None
            statement.value = _call(key, statement.value)
            keys[i] = key
            continue
        wanted = parse_expression(texts[i])
        wrapper = _Wrapper(ast.dump(wanted), key)
        wrapper.visit(statement)
        keys[i] = key if wrapper.done else None
    return keys


class _Wrapper(ast.NodeTransformer):
    """Wraps the first expression that reads like `wanted`."""

    def __init__(self, wanted: str, key: str):
        self.wanted, self.key, self.done = wanted, key, False

    def visit(self, node: ast.AST) -> ast.AST:
        if self.done:
            return node
        if isinstance(node, ast.expr) and ast.dump(node) == self.wanted:
            self.done = True
            return _call(self.key, node)
        return self.generic_visit(node)


def _call(key: str, value: ast.expr) -> ast.Call:
    given = [ast.Name("self", ast.Load()), ast.Constant(key), value]
    return ast.Call(ast.Name(PROBE, ast.Load()), given, [])


def _read(cls: ast.ClassDef) -> _Class:
    methods = {n.name: n for n in cls.body if isinstance(n, ast.FunctionDef)}
    made = methods.get("__init__")
    called = [methods[k] for k in ("step", "logits", "__call__") if k in methods]
    if "step" in methods:  # __call__ only calls it
        called = called[:1]
    attributes = {
        target.attr: Lines(statement.lineno, statement.end_lineno or statement.lineno)
        for statement in (made.body if made else ())
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Attribute)
    }
    body = [statement for method in called for statement in method.body]
    statements = tuple(s for s in body if isinstance(s, ast.Assign | ast.Return))
    return _Class(cls.lineno, attributes, statements)


def _lines(cls: _Class, index: int) -> Lines | None:
    if index >= len(cls.statements):
        return None
    statement = cls.statements[index]
    return Lines(statement.lineno, statement.end_lineno or statement.lineno)
