"""The functions of `ops/` as text, to be copied into the modules that use them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class of `ops/`: its source, and the global names that it reads."""

    name: str
    source: str
    uses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Library:
    """All of `ops/`: definitions in reading order, and which import binds each other
    name."""

    definitions: Mapping[str, Definition]
    imports: Mapping[str, str]

    def needed(self, source: str) -> tuple[Definition, ...]:
        """What `source` uses, and what that uses in turn."""
        wanted = loaded_names(ast.parse(source)) & self.definitions.keys()
        queue = list(wanted)
        while queue:
            for name in self.definitions[queue.pop()].uses & self.definitions.keys():
                if name not in wanted:
                    wanted |= {name}
                    queue.append(name)
        return tuple(d for name, d in self.definitions.items() if name in wanted)


@cache
def library() -> Library:
    """Reads `ops/` without importing it: it needs jax, which converting does not."""
    definitions: dict[str, Definition] = {}
    imports: dict[str, str] = dict(BASE_IMPORTS)
    folder = files("caffe2flax").joinpath("ops")
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if not file.name.endswith(".py"):
            continue
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.update(
                    (bound, line)
                    for bound, line in _bindings(node)
                    if " caffe2flax" not in line
                )
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                source = _segment(text, node)
                definition = Definition(node.name, source, loaded_names(node))
                definitions[node.name] = definition
    return Library(definitions, imports)


BASE_IMPORTS = {
    "Any": "from typing import Any",
    "Path": "from pathlib import Path",
    "Self": "from typing import Self",
    "partial": "from functools import partial",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "nnx": "from flax import nnx",
    "Array": "from jax import Array",
    "lax": "from jax import lax",
    "Dtype": "from flax.typing import Dtype",
    "load_file": "from safetensors.flax import load_file",
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


def _segment(text: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """The definition with its decorators."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
