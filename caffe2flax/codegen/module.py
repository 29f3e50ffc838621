"""Graph -> the source of a Flax NNX module."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from caffe2flax.codegen.library import Library, library, loaded_names
from caffe2flax.codegen.names import Namespace, identifier, layer_names
from caffe2flax.ir import Graph, Node, Value
from caffe2flax.registry import Site, literal


@dataclass(frozen=True, slots=True)
class Module:
    """A generated class before it is formatted.

    `attributes` names the attribute that holds each node's nnx module, by the node's
    number.
    """

    source: str
    attributes: Mapping[int, str]
    sites: Mapping[int, Site]


def emit(
    graph: Graph, name: str, *, initialise: bool, origin: str, version: str
) -> Module:
    """The module `name`; `initialise` writes the prototxt's fillers into it.

    `origin` is the file that the docstring names.
    """
    return _Emitter(graph, name, initialise, library()).emit(origin, version)


@dataclass(slots=True)
class _Statement:
    """`target = expression  # comment`, and whether a blank line comes before it."""

    targets: tuple[str, ...]
    expression: str
    comment: str = ""
    section: str = ""
    ends_section: bool = False


@dataclass(slots=True)
class _Emitter:
    graph: Graph
    name: str
    initialise: bool
    library: Library
    attributes: dict[int, str] = field(default_factory=dict)
    sites: dict[int, Site] = field(default_factory=dict)
    variables: dict[Value, str] = field(default_factory=dict)
    pending: dict[Value, str] = field(default_factory=dict)
    """Expressions of values that are not assigned, but nested where they are read."""

    def emit(self, origin: str, version: str) -> Module:
        self._name_variables()
        built = self._built()
        statements = self._statements()
        body = self._class(built, statements)
        docstring = (
            f"{self.name}, converted from {_quoted(origin)} by caffe2flax {version}."
        )
        order = self._axis_order()
        if order:
            docstring += f"\n\n{order}\n"
        parts = [f'"""{docstring}"""', self._imports(body), body]
        definitions = self.library.needed(body)
        if definitions:
            parts.append("\n\n\n".join((OPERATIONS, *(d.source for d in definitions))))
        return Module("\n\n\n".join(parts) + "\n", self.attributes, self.sites)

    def _axis_order(self) -> str:
        """How the arrays at the module's border lie, where that is not as in Caffe."""
        graph = self.graph
        moved = [v for v in graph.arguments if not graph.layouts[v].is_caffe]
        if not moved:
            return ""
        return "Blobs are channels last: N, H, W, C where Caffe has N, C, H, W."

    def _name_variables(self) -> None:
        names = Namespace(self.library.definitions)
        blobs: dict[tuple[str, bool], str] = {}
        last = self.graph.blobs
        for value in self.graph.layouts:
            moved = value.version > last[value.blob].version
            key = (value.blob, moved)
            if moved:
                caffe = self.graph.layouts[value].is_caffe
                suffix = (
                    "_nchw"
                    if caffe and self.graph.layouts[value].rank == 4
                    else "_moved"
                )
                self.variables[value] = names.claim(value.blob, suffix)
                continue
            if key not in blobs:
                blobs[key] = names.claim(value.blob)
            self.variables[value] = blobs[key]

    def _built(self) -> list[tuple[str, str]]:
        """(attribute, expression) of every nnx module, each shared one once."""
        names = layer_names()
        made: dict[object, str] = {}
        built = []
        for node in self.graph.nodes:
            site = self._site(node)
            expression = node.layer.build(site)
            if expression is None:
                continue
            key = (node.weights, expression)
            shared = made.get(key) if node.weights else None
            attribute = shared or names.claim(node.name)
            self.attributes[node.number] = attribute
            if shared is None:
                made[key] = attribute
                built.append((attribute, expression))
        return built

    def _site(self, node: Node) -> Site:
        site = Site(
            tuple(self.graph.operand(value) for value in node.inputs),
            tuple(self.graph.operand(value) for value in node.outputs),
            initialise=self.initialise,
        )
        self.sites[node.number] = site
        return site

    def _statements(self) -> list[_Statement]:
        readers = self.graph.readers()
        statements = []
        for node in self.graph.nodes:
            site = self._call_site(node)
            expression = node.layer.call(site)
            value = node.outputs[0]
            nested = [v for v in node.inputs if v in self.pending]
            if any(expression.count(self.pending[v]) > 1 for v in nested):
                for v in nested:
                    text = self.pending.pop(v)
                    statements.append(_Statement((self.variables[v],), text))
                expression = node.layer.call(self._call_site(node))
            for v in nested:
                self.pending.pop(v, None)
            following = readers.get(value, ())
            if self._nests(node, following):
                self.pending[value] = expression
                continue
            statements.append(
                _Statement(
                    tuple(self.variables[v] for v in node.outputs),
                    expression,
                    self._comment(node),
                    _section(value.blob, statements[-1].section if statements else ""),
                    node.layer.ends_section,
                )
            )
        return statements

    def _call_site(self, node: Node) -> Site:
        site = self.sites[node.number]
        return Site(
            site.inputs,
            site.outputs,
            f"self.{self.attributes.get(node.number, '')}",
            tuple(self.pending.get(v) or self.variables[v] for v in node.inputs),
            site.initialise,
        )

    def _nests(self, node: Node, following: tuple[Node, ...]) -> bool:
        """Whether an in-place layer is all that reads this output: then the call goes
        inside."""
        if len(node.outputs) != 1 or len(following) != 1:
            return False
        value = node.outputs[0]
        if value in self.graph.wanted:
            return False
        tops = following[0].outputs
        return any(top.blob == value.blob for top in tops)

    def _comment(self, node: Node) -> str:
        """The shape, where the layer changed it."""
        after = [self.graph.operand(value) for value in node.outputs]
        before = self.graph.operand(node.inputs[0]) if node.inputs else None
        if len(after) != 1 or (before and self._unchanged(node)):
            return ""
        return f"({after[0].describe()}{',' if len(after[0].shape) == 1 else ''})"

    def _unchanged(self, node: Node) -> bool:
        start = self._chain_start(node)
        value = node.outputs[0]
        return self.graph.operand(start).emitted == self.graph.operand(value).emitted

    def _chain_start(self, node: Node) -> Value:
        """The first input of the innermost call of this statement."""
        value = node.inputs[0]
        makers = {v: n for n in self.graph.nodes for v in n.outputs[:1]}
        while value.blob == node.outputs[0].blob and value in makers:
            maker = makers[value]
            if not maker.inputs or value in self.graph.wanted:
                break
            value = maker.inputs[0]
        return value

    def _class(self, built: list[tuple[str, str]], statements: list[_Statement]) -> str:
        attributes = _shorten(built)
        typed = any("dtype=dtype" in text for _, text in built)
        parameters = ["*"]
        if typed:
            parameters.append("dtype: DTypeLike | None = None")
        parameters.append("rngs: nnx.Rngs")
        lines = [f"class {self.name}(nnx.Module):", f'    """{self._signature()}"""']
        if attributes:
            lines += ["", f"    def __init__(self, {', '.join(parameters)}):"]
            lines += [f"        {line}" if line else "" for line in attributes]
        lines += ["", *self._call(statements)]
        if any(node.weights for node in self.graph.nodes):
            lines += ["", *_indent(_from_pretrained(typed))]
        return "\n".join(lines)

    def _signature(self) -> str:
        graph = self.graph

        def show(values: Iterable[Value]) -> str:
            shown = []
            for value in values:
                extents = graph.operand(value).describe()
                shown.append(f"{identifier(value.blob)} ({extents})")
            return ", ".join(shown)

        return f"{show(graph.arguments)} -> {show(graph.outputs)}."

    def _call(self, statements: list[_Statement]) -> list[str]:
        arguments = [f"{self.variables[v]}: Array" for v in self.graph.arguments]
        texts = [statement.expression for statement in statements]
        if any("rngs=rngs" in text for text in texts):
            arguments += ["*", "rngs: nnx.Rngs | None = None"]
        lines = [
            f"    def __call__(self, {', '.join(arguments)}) -> {self._returns()}:"
        ]
        result = self._result(statements)
        section, ended = "", False
        for statement in statements:
            new = statement.section not in ("", section)
            left = section and not statement.section
            if lines[1:] and (new or left or (ended and not statement.section)):
                lines.append("")
            target = ", ".join(statement.targets)
            lines += _commented(f"{target} = {statement.expression}", statement.comment)
            section, ended = statement.section, statement.ends_section
        if ended:
            lines.append("")
        lines.append(f"        return {result}")
        return lines

    def _returns(self) -> str:
        output = "Array" if len(self.graph.outputs) == 1 else "dict[str, Array]"
        return f"tuple[{output}, dict[str, Array]]" if self.graph.taps else output

    def _result(self, statements: list[_Statement]) -> str:
        """What is returned; the last statement goes into it where that is the only
        output."""
        outputs, taps = self.graph.outputs, self.graph.taps
        if len(outputs) == 1 and not taps:
            name = self.variables[outputs[0]]
            if statements and statements[-1].targets == (name,):
                return statements.pop().expression
            return name
        shown = self.variables[outputs[0]] if len(outputs) == 1 else self._dict(outputs)
        return f"{shown}, {self._dict(taps)}" if taps else shown

    def _dict(self, values: Iterable[Value]) -> str:
        items = (f"{literal(v.blob)}: {self.variables[v]}" for v in values)
        return "{" + ", ".join(items) + "}"

    def _imports(self, body: str) -> str:
        """Sorted as ruff sorts them: standard library first, `import` before `from`."""
        names = set(loaded_names(ast.parse(body)))
        for definition in self.library.needed(body):
            names |= definition.uses
        modules: dict[str, set[str]] = {}
        plain: set[str] = set()
        for name in names & self.library.imports.keys():
            line = self.library.imports[name]
            if line.startswith("import "):
                plain.add(line)
            else:
                module, _, what = line.removeprefix("from ").partition(" import ")
                modules.setdefault(module, set()).add(what)
        lines = plain | {
            f"from {module} import {', '.join(sorted(names, key=_import_order))}"
            for module, names in modules.items()
        }
        ours = sorted(
            lines, key=lambda line: (line.startswith("from"), line.split()[1])
        )
        standard = [line for line in ours if line.split()[1].split(".")[0] in STANDARD]
        others = [line for line in ours if line not in standard]
        return "\n\n".join("\n".join(group) for group in (standard, others) if group)


WIDTH = 88
"""Columns of a line in ruff's default style."""


def _commented(statement: str, comment: str) -> list[str]:
    """The statement with its comment behind it, or above where that would break the
    line."""
    indent = " " * 8
    if not comment:
        return [f"{indent}{statement}"]
    line = f"{indent}{statement}  # {comment}"
    fits = len(line) <= WIDTH
    return [line] if fits else [f"{indent}# {comment}", f"{indent}{statement}"]


OPERATIONS = "# Operations that Flax lacks, or that XLA lowers better this way."

COMMON_ARGUMENTS = ", dtype=dtype, rngs=rngs)"


def _shorten(built: list[tuple[str, str]]) -> list[str]:
    """The assignments of `__init__`, arguments that a class always gets given once."""
    calls = [text.partition("  # ")[0] for _, text in built]
    counts = Counter(
        text.partition("(")[0] for text in calls if text.endswith(COMMON_ARGUMENTS)
    )
    short = {cls: _snake_case(cls) for cls, count in counts.items() if count > 1}
    lines = [f"{name} = partial({cls}{COMMON_ARGUMENTS}" for cls, name in short.items()]
    lines += [""] * bool(lines)
    for attribute, text in built:
        call, hash_, comment = text.partition("  # ")
        cls = call.partition("(")[0]
        if cls in short and call.endswith(COMMON_ARGUMENTS):
            arguments = call.removeprefix(cls).removesuffix(COMMON_ARGUMENTS)
            call = f"{short[cls]}{arguments})"
        lines.append(f"self.{attribute} = {call}{hash_}{comment}")
    return lines


def _snake_case(cls: str) -> str:
    """`nnx.BatchNorm` -> `batch_norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.rpartition(".")[2]).lower()


STANDARD = frozenset(
    ["collections", "functools", "itertools", "math", "pathlib", "typing"]
)


def _import_order(name: str) -> tuple[bool, bool, str]:
    """Constants, classes, functions."""
    return (not name.isupper(), not name[:1].isupper(), name)


def _section(name: str, current: str) -> str:
    """The part of a blob's name that it has in common with its block."""
    if name == current:
        return current
    head, slash, _ = name.rpartition("/")
    if slash:
        return head
    match = re.match(r"(.+?)_branch", name)
    return match.group(1) if match else ""


def _quoted(text: str) -> str:
    """`text` for a docstring: nothing in it can end the string or steer a terminal."""
    return literal(text)[1:-1].replace('"', "'")


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _from_pretrained(typed: bool) -> list[str]:
    option = ", *, dtype: DTypeLike | None = None" if typed else ""
    given = "dtype=dtype, " if typed else ""
    return [
        "@classmethod",
        f"def from_pretrained(cls, path: str | Path | None = None{option}) -> Self:",
        '    """The network in eval mode, weights from `path` or beside this file."""',
        f"    model = nnx.eval_shape(lambda: cls({given}rngs=nnx.Rngs(0)))",
        '    load_weights(model, path or Path(__file__).with_suffix(".safetensors"))',
        "    model.eval()",
        "    return model",
    ]
