"""The functions of `ops/` as text, to be copied into the modules that use them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypeGuard

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir.registry import OPERATIONS
from caffe2flax.ir.syntax import parse_module


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class of `ops/`."""

    name: str
    source: str

    @property
    def uses(self) -> frozenset[str]:
        """The global names that it reads; found when asked for, as few are needed."""
        return _uses(self.source)


DEFINITION = re.compile(
    r"^(?:@.*\n(?:[ )].*\n)*)*(?:def|class) (?P<name>\w+).*\n(?:(?:[ )].*)?\n)*", re.M
)
"""In a file as ruff formats it: decorators, and all lines further in."""
IMPORT = re.compile(r"^(?:from|import) (?:.*\((?:\n .*)*\n\)|.*)", re.M)


@cache
def _uses(source: str) -> frozenset[str]:
    return loaded_names(parse_module(source))


@dataclass(frozen=True, slots=True)
class Library:
    """All of `ops/`: definitions in reading order, and which import binds each other
    name."""

    definitions: Mapping[str, Definition]
    imports: Mapping[str, str]

    def needed(self, source: str) -> tuple[Definition, ...]:
        """What `source` uses, and what that uses in turn."""
        wanted = loaded_names(parse_module(source)) & self.definitions.keys()
        queue = list(wanted)
        while queue:
            for name in self.definitions[queue.pop()].uses & self.definitions.keys():
                if name not in wanted:
                    wanted |= {name}
                    queue.append(name)
        return tuple(d for name, d in self.definitions.items() if name in wanted)


def library() -> Library:
    """`ops/`, and what plug-ins define beside their layers."""
    own = _own_library()
    return _extended(tuple(OPERATIONS.items())) if OPERATIONS else own


@cache
def _own_library() -> Library:
    """Reads `ops/` without importing it: it needs jax, which converting does not. Nor
    is all of it parsed, which would take longer than converting a small net."""
    texts = own_texts()
    definitions = {
        match["name"]: Definition(match["name"], match[0].rstrip())
        for text in texts
        for match in DEFINITION.finditer(text)
    }
    lines = dict.fromkeys(line for text in texts for line in IMPORT.findall(text))
    return Library(definitions, read(["\n".join(lines)]).imports)


def own_texts() -> list[str]:
    """The files of `ops/`, in the order of their names."""
    folder = files("caffe2flax").joinpath("ops")
    found = sorted(folder.iterdir(), key=lambda item: item.name)
    return [f.read_text(encoding="utf-8") for f in found if f.name.endswith(".py")]


@cache
def _extended(sources: tuple[tuple[str, str], ...]) -> Library:
    """The library with the functions of other sources, (file, text) each. Raises
    ConversionError where one has the name of another."""
    own = _own_library()
    definitions, imports = dict(own.definitions), dict(own.imports)
    for file, text in sources:
        more = read([text])
        for name in definitions.keys() & more.definitions.keys():
            problem = Problem(f"generated modules know another {name}", Span(file))
            raise ConversionError(problem)
        definitions |= more.definitions
        imports = {**more.imports, **imports}
    return Library(definitions, imports)


def read(texts: Iterable[str]) -> Library:
    """The functions and classes of these sources, but for layers."""
    definitions: dict[str, Definition] = {}
    imports: dict[str, str] = dict(BASE_IMPORTS)
    for text in texts:
        lines = text.splitlines()
        for node in parse_module(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.update(
                    (bound, line)
                    for bound, line in _bindings(node)
                    if " caffe2flax" not in line
                )
            elif _is_carried(node):
                source = _segment(lines, node)
                definitions[node.name] = Definition(node.name, source)
    return Library(definitions, imports)


def _is_carried(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.ClassDef]:
    """Whether a statement defines something that is no layer."""
    if isinstance(node, ast.FunctionDef):
        return True
    if not isinstance(node, ast.ClassDef):
        return False
    return not any("layer" in ast.unparse(mark) for mark in node.decorator_list)


BASE_IMPORTS = {
    "Any": "from typing import Any",
    "Callable": "from collections.abc import Callable",
    "Path": "from pathlib import Path",
    "Self": "from typing import Self",
    "partial": "from functools import partial",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "nnx": "from flax import nnx",
    "Array": "from jax import Array",
    "lax": "from jax import lax",
    "Dtype": "from flax.typing import Dtype",
    "PrecisionLike": "from flax.typing import PrecisionLike",
}
"""What the class itself may need."""


def loaded_names(tree: ast.AST) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name))


def _bindings(node: ast.Import | ast.ImportFrom) -> Iterable[tuple[str, str]]:
    for alias in node.names:
        shown = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        bound = alias.asname or alias.name
        if isinstance(node, ast.ImportFrom):
            yield bound, f"from {node.module} import {shown}"
        else:
            yield bound, f"import {shown}"


def _segment(lines: list[str], node: ast.FunctionDef | ast.ClassDef) -> str:
    """The definition with its decorators."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return "\n".join(lines[first - 1 : node.end_lineno])


def import_lines(names: Collection[str], imports: Mapping[str, str]) -> list[str]:
    """The groups of imports that bind `names`, as ruff sorts them: the standard library
    first, `import` before `from`."""
    modules: dict[str, set[str]] = {}
    lines: set[str] = set()
    for name in set(names) & imports.keys():
        line = imports[name]
        if line.startswith("import "):
            lines.add(line)
        else:
            module, _, what = line.removeprefix("from ").partition(" import ")
            modules.setdefault(module, set()).add(what)
    lines |= {
        f"from {module} import {', '.join(sorted(names, key=_import_order))}"
        for module, names in modules.items()
    }
    ours = sorted(lines, key=lambda line: (line.startswith("from"), line.split()[1]))
    standard = [line for line in ours if _package(line) in sys.stdlib_module_names]
    others = [line for line in ours if line not in standard]
    return ["\n".join(group) for group in (standard, others) if group]


def _package(line: str) -> str:
    return line.split()[1].split(".")[0]


def _import_order(name: str) -> tuple[bool, bool, str]:
    """Constants, classes, functions."""
    return (not name.isupper(), not name[:1].isupper(), name)
