"""Nodes -> the assignments of `__init__` and the statements of `__call__`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.calls import PASSED_ON, assignments
from caffe2flax.codegen.format import WIDTH
from caffe2flax.codegen.library import library
from caffe2flax.codegen.names import Namespace, layer_names
from caffe2flax.codegen.places import Spot
from caffe2flax.codegen.sharing import Ties
from caffe2flax.ir.abilities import EndsSection, WritesMethod
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Site
from caffe2flax.ir.layout import Operand

LETTERS = {4: "NCHW", 5: "NCDHW"}
"""What Caffe's axes are called, by how many there are."""

DEEPEST = 8
"""Calls inside one another; Python's parser ends at a hundred or two."""


@dataclass(slots=True)
class Statement:
    """`target = expression  # comment`.

    A blank line stands before a statement of another section, and behind a pool.
    """

    targets: tuple[str, ...]
    expression: str
    comment: str = ""
    section: str = ""
    ends_section: bool = False


@dataclass(frozen=True, slots=True)
class Labels:
    """Names to use in place of Caffe's: of nodes by number, and of values."""

    nodes: Mapping[int, str]
    values: Mapping[Value, str]


@dataclass(slots=True)
class Body:
    """What a class holds and does for the nodes of `graph`.

    attributes: the attribute that holds each node's nnx module, by the node's number.
    built: (attribute, expression) of each nnx module. statements: the calls.
    """

    graph: Graph
    initialise: bool
    labels: Labels | None = None
    attributes: dict[int, str] = field(default_factory=dict)
    sites: dict[int, Site] = field(default_factory=dict)
    variables: dict[Value, str] = field(default_factory=dict)
    built: list[tuple[str, str]] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    """The lines of the methods of layers, indented."""
    states: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Key and variable of the state that a node carries to the next call, by number."""
    tied: dict[str, dict[str, str]] = field(default_factory=dict)
    """For an attribute, expressions of the variables that another module holds."""
    spots: dict[int, Spot] = field(default_factory=dict)
    """By the node's number; those of one statement from the inside out."""
    _pending: dict[Value, str] = field(default_factory=dict)
    """Expressions of values that are not assigned, but nested where they are read."""
    _starts: dict[Value, Value] = field(default_factory=dict)
    """The value that a chain of in-place layers started from."""
    _inside: dict[Value, dict[int, str]] = field(default_factory=dict)
    """The nodes whose calls are in a pending expression, and their expressions."""

    def __post_init__(self) -> None:
        self._name_variables()
        self._build()
        self._state()

    @property
    def passed_on(self) -> tuple[str, ...]:
        """Arguments of the class that it hands to its modules as they are."""
        texts = [text for _, text in self.built]
        return tuple(k for k in PASSED_ON if any(f"{k}={k}" in t for t in texts))

    @property
    def is_random(self) -> bool:
        return any("rngs=rngs" in s.expression for s in self.statements)

    def _name_variables(self) -> None:
        """One variable for all versions of a blob, another for its copy in another
        layout."""
        names = Namespace(library().definitions)
        blobs: dict[str, str] = {}
        for value in self._values():
            label = self.labels.values.get(value) if self.labels else None
            if value.version > self.graph.blobs[value.blob].version:
                layout = self.graph.layouts[value]
                usual = layout.is_caffe and layout.rank == 4
                suffix = "_nchw" if usual else "_moved"
                self.variables[value] = names.claim(label or value.blob, suffix)
                continue
            if value.blob not in blobs:
                blobs[value.blob] = names.claim(label or value.blob)
            self.variables[value] = blobs[value.blob]
        keys = layer_names()
        for node in self.graph.nodes:
            if node.carried:
                key = keys.claim(node.name)
                self.states[node.number] = key, names.claim(key, "_state")

    def _values(self) -> Iterable[Value]:
        yield from self.graph.arguments
        for node in self.graph.nodes:
            yield from node.outputs

    def _build(self) -> None:
        """Every nnx module, each shared one once."""
        names = layer_names()
        made: dict[object, str] = {}
        ties = Ties(Counter(w for node in self.graph.nodes for w in node.weights))
        for node in self.graph.nodes:
            site = self._site(node)
            if isinstance(node.layer, WritesMethod):
                self._add_method(node, node.layer, names.claim(node.name))
                continue
            expression = node.layer.build(site)
            if expression is None:
                continue
            key = (node.weights, expression, ties.arrangement(node, site))
            shared = made.get(key) if node.weights else None
            label = self.labels.nodes.get(node.number) if self.labels else None
            attribute = shared or names.claim(label or node.name)
            self.attributes[node.number] = attribute
            if shared is None:
                made[key] = attribute
                views = ties.add(node, site, attribute)
                if views:
                    self.tied[attribute] = views
                    expression = _without(expression, views)
                self.built.append((attribute, expression))

    def _add_method(self, node: Node, layer: WritesMethod, name: str) -> None:
        taken = [self.variables[value] for value in node.inputs]
        if len(set(taken)) < len(taken) or "self" in taken:
            taken = [f"x{i}" for i in range(len(taken))]
        self.attributes[node.number] = name
        text = layer.write_method(name, taken, self.sites[node.number])
        self.methods += ["", *(f"    {line}".rstrip() for line in text.splitlines())]

    def _site(self, node: Node) -> Site:
        site = Site(
            tuple(self.graph.operand(value) for value in node.inputs),
            tuple(self.graph.operand(value) for value in node.outputs),
            initialise=self.initialise,
        )
        self.sites[node.number] = site
        return site

    def _state(self) -> None:
        readers = self.graph.readers()
        for node in self.graph.nodes:
            nested = [v for v in node.inputs if v in self._pending]
            expression = node.layer.call(self._call_site(node))
            if any(expression.count(self._pending[v]) > 1 for v in nested):
                for v in nested:
                    text = self._pending.pop(v)
                    self._place(self._inside.pop(v))
                    self.statements.append(Statement((self.variables[v],), text))
                expression = node.layer.call(self._call_site(node))
            inside: dict[int, str] = {}
            for v in nested:
                self._pending.pop(v, None)
                inside |= self._inside.pop(v, {})
            inside[node.number] = expression
            value = node.outputs[0]
            self._starts[value] = self._start(node, nested)
            shallow = len(inside) < DEEPEST
            if shallow and self._nests(node, readers.get(value, ())):
                self._pending[value] = expression
                self._inside[value] = inside
                continue
            self._place(inside)
            current = self.statements[-1].section if self.statements else ""
            self.statements.append(
                Statement(
                    self._targets(node),
                    expression,
                    self._comment(node),
                    self._section(node, current),
                    isinstance(node.layer, EndsSection),
                )
            )

    @staticmethod
    def _section(node: Node, current: str) -> str:
        """Calls of one section stand together, as those of blocks do."""
        if isinstance(node.layer, BlockCall):
            return "blocks"
        return _section(node.outputs[0].blob, current)

    def _place(self, expressions: Mapping[int, str]) -> None:
        """Keeps that the next statement makes these calls."""
        at = len(self.statements)
        self.spots |= {n: Spot(at, text) for n, text in expressions.items()}

    def _targets(self, node: Node) -> tuple[str, ...]:
        tops = tuple(self.variables[value] for value in node.outputs)
        carried = self.states.get(node.number)
        return (*tops, f"*{carried[1]}") if carried else tops

    def _call_site(self, node: Node) -> Site:
        site = self.sites[node.number]
        attribute = self.attributes.get(node.number, "")
        module = f"self.{attribute}"
        key, _ = self.states.get(node.number, ("", ""))
        if attribute in self.tied:
            module = f"tied({arguments(module, **self.tied[attribute])})"
        return Site(
            site.inputs,
            site.outputs,
            module,
            tuple(map(self._argument, node.inputs, self._stopped(node))),
            site.initialise,
            f"*state.get({literal(key)}, ())" if key else "",
        )

    def _argument(self, value: Value, stopped: bool) -> str:
        text = self._pending.get(value) or self.variables[value]
        return f"lax.stop_gradient({text})" if stopped else text

    def _stopped(self, node: Node) -> tuple[bool, ...]:
        """For each input, whether `propagate_down: false` keeps gradients from it."""
        if self.graph.phase != "TRAIN" or not node.propagate_down:
            return (False,) * len(node.inputs)
        return tuple(not down for down in node.propagate_down)

    def _nests(self, node: Node, following: tuple[Node, ...]) -> bool:
        """Whether an in-place layer is all that reads this output: then the call goes
        inside."""
        if len(node.outputs) != 1 or len(following) != 1 or node.carried:
            return False
        value = node.outputs[0]
        if value in self.graph.wanted:
            return False
        tops = following[0].outputs
        return any(top.blob == value.blob for top in tops)

    def _start(self, node: Node, nested: list[Value]) -> Value:
        """The first input of the innermost call of the node's statement."""
        if not node.inputs:
            return node.outputs[0]
        value = node.inputs[0]
        return self._starts[value] if value in nested else value

    def _comment(self, node: Node) -> str:
        """The shape, where the layer changed it."""
        if len(node.outputs) != 1:
            return ""
        after = self.graph.operand(node.outputs[0])
        start = self._starts[node.outputs[0]]
        if node.inputs and self.graph.operand(start).emitted == after.emitted:
            return ""
        return f"({after.describe()}{',' if len(after.shape) == 1 else ''})"

    def init_lines(self, parameters: Iterable[str]) -> list[str]:
        """The lines of an `__init__` with these parameters, indented."""
        lines = assignments(self.built, parameters)
        return [f"        {line}" if line else "" for line in lines]

    @property
    def result_is_last(self) -> bool:
        """Whether what the last statement assigns is all that is returned."""
        outputs = tuple(self.variables[value] for value in self.graph.outputs)
        last = self.statements[-1].targets if self.statements else ()
        return len(outputs) == 1 and not self.graph.taps and last == outputs

    def call_lines(self, *, comments: bool = True) -> list[str]:
        """The lines of `__call__` behind its signature, indented."""
        statements = list(self.statements)
        result = self._result(statements)
        guards = [] if self.labels else list(self._guards())
        lines: list[str] = []
        section, ended = "", False
        for statement in statements:
            new = statement.section not in ("", section)
            left = section and not statement.section
            apart = new or left or (ended and not statement.section)
            if lines and apart and not statement.ends_section:
                lines.append("")
            target = ", ".join(statement.targets)
            comment = statement.comment if comments else ""
            lines += _commented(f"{target} = {statement.expression}", comment)
            section, ended = statement.section, statement.ends_section
        if self.states:
            taken = (f"{literal(key)}: {name}" for key, name in self.states.values())
            first = f"({result})" if self.graph.taps else result
            result = f"{first}, {{{', '.join(taken)}}}"
        shown = comments and self.result_is_last
        comment = self.statements[-1].comment if shown else ""
        return [*guards, *lines, *_commented(f"return {result}", comment)]

    def _guards(self) -> Iterable[str]:
        """What refuses inputs of another shape."""
        for value in self.graph.arguments:
            operand, free = self.graph.operand(value), self.graph.free.get(value, ())
            sizes = [
                _letter(axis, operand)
                if axis in free or operand.is_batch(axis)
                else size
                for axis, size in enumerate(operand.shape)
            ]
            name = self.variables[value]
            wanted = map(literal, operand.layout.arrange_each(sizes))
            yield f"        check_shape({arguments(literal(name), name, *wanted)})"

    def _result(self, statements: list[Statement]) -> str:
        """What is returned; the last statement goes into it where that is the only
        output."""
        outputs, taps = self.graph.outputs, self.graph.taps
        if self.result_is_last:
            return statements.pop().expression
        shown = self.variables[outputs[0]] if len(outputs) == 1 else self._dict(outputs)
        return f"{shown}, {self._dict(taps)}" if taps else shown

    def _dict(self, values: Iterable[Value]) -> str:
        items = (f"{literal(v.blob)}: {self.variables[v]}" for v in values)
        return "{" + ", ".join(items) + "}"


def _letter(axis: int, operand: Operand) -> str:
    """What stands for an extent of Caffe's `axis` that may be any."""
    known = LETTERS.get(len(operand.shape), "N")
    return known[axis] if axis < len(known) else "*"


def _without(expression: str, names: Iterable[str]) -> str:
    """The module without variables that another one holds."""
    call, hash_, comment = expression.partition("  # ")
    return f"without({arguments(call, *map(literal, names))}){hash_}{comment}"


def _commented(statement: str, comment: str) -> list[str]:
    """The statement with its comment behind it, or above where that would break the
    line."""
    indent = " " * 8
    if not comment:
        return [f"{indent}{statement}"]
    line = f"{indent}{statement}  # {comment}"
    fits = len(line) <= WIDTH
    return [line] if fits else [f"{indent}# {comment}", f"{indent}{statement}"]


def _section(name: str, current: str) -> str:
    """The part of a blob's name that it has in common with its block."""
    if name == current:
        return current
    head, slash, _ = name.rpartition("/")
    if slash:
        return head
    match = re.match(r"(.+?)_branch", name)
    return match.group(1) if match else ""
