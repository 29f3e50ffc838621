"""Imports run one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    {"caffe2flax.cpu"},
    {"caffe2flax.errors", "caffe2flax.limits", "caffe2flax.ops"},
    {"caffe2flax.frontend"},
    {"caffe2flax.sources"},
    {"caffe2flax.layers.window", "caffe2flax.layers.fillers"},
    {"caffe2flax.layout", "caffe2flax.dialects", "caffe2flax.refused"},
    {"caffe2flax.regroup"},
    {"caffe2flax.params"},
    {"caffe2flax.transform"},
    {"caffe2flax.registry"},
    {"caffe2flax.ir", "caffe2flax.plugins"},
    {"caffe2flax.layers", "caffe2flax.build"},
    {"caffe2flax.passes"},
    {"caffe2flax.codegen", "caffe2flax.drawing", "caffe2flax.reference"},
    {"caffe2flax.images"},
    {"caffe2flax.columns"},
    {"caffe2flax.dot", "caffe2flax.output", "caffe2flax.runner"},
    {"caffe2flax.npz"},
    {"caffe2flax.preparation"},
    {"caffe2flax.feeding", "caffe2flax.oracles"},
    {"caffe2flax.comparison"},
    {"caffe2flax.inspection", "caffe2flax.verification", "caffe2flax.whereabouts"},
    {"caffe2flax.rereading"},
    {"caffe2flax.api"},
    {"caffe2flax.predict"},
    {"caffe2flax.rankings"},
    {"caffe2flax"},
    {"caffe2flax.progress", "caffe2flax.tables"},
    {"caffe2flax.showing", "caffe2flax.showing_nets"},
    {"caffe2flax.page", "caffe2flax.parity"},
    {"caffe2flax.pictures", "caffe2flax.predictions", "caffe2flax.proofs"},
    {"caffe2flax.arguments"},
    {"caffe2flax.demo"},
    {"caffe2flax.cli"},
    {"caffe2flax.__main__"},
)
"""A module imports what stands before it, and a package may import within itself."""

OPS = "caffe2flax.ops"
CPU = "caffe2flax.cpu"
RUNNER = "caffe2flax.runner"
HEAVY = {
    "PIL",
    "flax",
    "google",
    "graphviz",
    "h5py",
    "jax",
    "lark",
    "rich",
    "ruff",
    "safetensors",
}


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    lazy: bool
    """Inside a function: loaded when that is called."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"

    @property
    def top(self) -> str:
        return self.imported.partition(".")[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.glob("caffe2flax/**/*.py"))}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(module: str) -> Iterator[Import]:
    """What a module imports when it runs; imports for type checkers do not count."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, lazy = pending.pop()
        if is_for_types(node):
            continue
        lazy |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        pending += [(child, lazy) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                name = inner if inner in MODULES else str(node.module)
                yield Import(module, name, node.lineno, lazy)


ALL = [found for module in MODULES for found in imports(module)]
OWN = [found for found in ALL if found.top == "caffe2flax"]


def entry(module: str) -> str:
    """The entry of ORDER that a module is or lies in."""
    entries = {name for names in ORDER for name in names}
    if module in entries:
        return module
    package = module.rpartition(".")[0]
    assert package in entries - {"caffe2flax"}, f"{module} has no place in the order"
    return package


def place(module: str) -> int:
    return next(i for i, names in enumerate(ORDER) if entry(module) in names)


def is_concrete_layer(module: str) -> bool:
    return module.startswith("caffe2flax.layers.") and entry(module) != module


def lines(found: Iterator[Import]) -> list[str]:
    return sorted(map(str, found))


def test_the_order_names_what_exists() -> None:
    entries = {name for names in ORDER for name in names}
    assert entries <= MODULES.keys()
    assert all(entry(module) for module in MODULES)


def test_imports_run_one_way() -> None:
    wrong = (
        found
        for found in OWN
        if entry(found.importer) != entry(found.imported)
        and place(found.importer) <= place(found.imported)
    )
    assert not lines(wrong)


def test_a_layer_file_imports_no_other_layer_file() -> None:
    wrong = (
        found
        for found in OWN
        if is_concrete_layer(found.importer)
        and is_concrete_layer(found.imported)
        and not found.imported.rpartition(".")[2].startswith("_")
    )
    assert not lines(wrong)


@pytest.mark.parametrize("reader", ["passes", "codegen", "reference"])
def test_what_reads_a_graph_names_no_layer(reader: str) -> None:
    wrong = (
        found
        for found in OWN
        if entry(found.importer) == f"caffe2flax.{reader}"
        and is_concrete_layer(found.imported)
    )
    assert not lines(wrong)


def test_operations_stand_alone() -> None:
    """They are copied into generated modules, which import no caffe2flax."""
    wrong = (
        found
        for found in OWN
        if found.importer.startswith(OPS) is not found.imported.startswith(OPS)
    )
    assert not lines(wrong)


def test_compile_knows_nothing_of_caffe() -> None:
    wrong = (
        found
        for found in OWN
        if found.importer.startswith(CPU) and not found.imported.startswith(CPU)
    )
    assert not lines(wrong)


def test_only_operations_compile_and_the_runner_import_jax() -> None:
    wrong = (
        found
        for found in ALL
        if found.top in {"jax", "flax"}
        and not found.importer.startswith((OPS, CPU))
        and found.importer != RUNNER
    )
    assert not lines(wrong)


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    wrong = (
        found
        for found in ALL
        if found.top in HEAVY
        and not found.lazy
        and not found.importer.startswith((OPS, f"{CPU}."))
    )
    assert not lines(wrong)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, caffe2flax; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"jax", "flax"} & set(done.stdout.split())


def test_nothing_undeclared_is_imported() -> None:
    known = {"caffe2flax", "numpy", *HEAVY, *sys.stdlib_module_names}
    assert not lines(found for found in ALL if found.top not in known)
