"""The structure of the package: few files at its root, imports that run one way,
nothing heavy loaded before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from graphlib import TopologicalSorter
from inspect import isfunction, signature
from pathlib import Path
from typing import NamedTuple

import pytest

import caffe2flax
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.registry import FAMILIES, LAYERS
from caffe2flax.layers import register_all
from caffe2flax.options import ConversionOptions

ROOT = Path(__file__).parents[1]
ORDER = (
    {"caffe2flax.cpu", "caffe2flax.ops"},
    {"caffe2flax.errors"},
    {"caffe2flax.limits"},
    {"caffe2flax.files", "caffe2flax.options"},
    {"caffe2flax.frontend"},
    {"caffe2flax.ir"},
    {"caffe2flax.layers", "caffe2flax.plugins"},
    {"caffe2flax.passes"},
    {"caffe2flax.codegen"},
    {"caffe2flax.weights"},
    {"caffe2flax.drawing"},
    {"caffe2flax.display"},
    {"caffe2flax.conversion"},
    {"caffe2flax.runner"},
    {"caffe2flax.training"},
    {"caffe2flax.extraction", "caffe2flax.inspection", "caffe2flax.prediction"},
    {"caffe2flax.verification"},
    {"caffe2flax.exports"},
    {"caffe2flax.training"},
    {"caffe2flax.api"},
    {"caffe2flax"},
    {"caffe2flax.demo"},
    {"caffe2flax.cli"},
    {"caffe2flax.__main__"},
)
"""A module imports only earlier entries, and a package may import within itself."""

OPS = "caffe2flax.ops"
TRAINING = "caffe2flax.training"
LIBRARY = "caffe2flax.training.library"
CPU = "caffe2flax.cpu"
RUNNER = "caffe2flax.runner"
OBSERVE = "caffe2flax.verification.observe"
STABLEHLO = "caffe2flax.exports.stablehlo"
EXTRACTION = "caffe2flax.extraction"
API = "caffe2flax.api"
"""It names `nnx.Module` for type checkers."""
HEAVY = {
    "PIL",
    "absl",
    "flatbuffers",
    "flax",
    "google",
    "grain",
    "graphviz",
    "h5py",
    "jax",
    "lark",
    "lmdb",
    "onnx",
    "onnxruntime",
    "optax",
    "orbax",
    "plyvel",
    "plyvel_next",
    "rich",
    "safetensors",
}


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    lazy: bool
    """Inside a function, or for type checkers: not loaded with the module."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"

    @property
    def top(self) -> str:
        return self.imported.partition(".")[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.glob("caffe2flax/**/*.py"))}


def imports(module: str) -> Iterator[Import]:
    """What a module imports, for type checkers as well."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, lazy = pending.pop()
        lazy |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        lazy |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
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
    """The entry of ORDER that is a module or contains it."""
    entries = {name for names in ORDER for name in names}
    found = module
    while found not in entries:
        found = found.rpartition(".")[0]
        assert found != "caffe2flax", f"{module} has no place in the order"
    return found


def place(module: str) -> int:
    return next(i for i, names in enumerate(ORDER) if entry(module) in names)


def is_concrete_layer(module: str) -> bool:
    return module.startswith("caffe2flax.layers.") and "__init__" not in str(
        MODULES[module]
    )


def lines(found: Iterator[Import]) -> list[str]:
    return sorted(map(str, found))


def test_the_root_holds_few_files() -> None:
    assert len(list((ROOT / "caffe2flax").glob("*.py"))) <= 10


def test_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OWN:
        graph[found.importer] |= {found.imported} - {found.importer}
    TopologicalSorter(graph).prepare()  # raises CycleError


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


@pytest.mark.parametrize("reader", ["passes", "codegen", "weights", "verification"])
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


def test_what_training_scripts_copy_stands_alone() -> None:
    """Nor do they import caffe2flax; what these files import of one another is copied
    too. They are imported inside of functions, as they need grain, lmdb and others."""
    wrong = (
        found
        for found in OWN
        if found.importer.startswith(LIBRARY) and not found.imported.startswith(LIBRARY)
    )
    assert not lines(wrong)


def test_compile_knows_nothing_of_caffe() -> None:
    wrong = (
        found
        for found in OWN
        if found.importer.startswith(CPU) and not found.imported.startswith(CPU)
    )
    assert not lines(wrong)


def test_only_what_runs_modules_imports_jax() -> None:
    wrong = (
        found
        for found in ALL
        if found.top in {"jax", "flax"}
        and not found.importer.startswith((OPS, CPU, TRAINING, EXTRACTION))
        and found.importer not in {RUNNER, OBSERVE, STABLEHLO, API}
    )
    assert not lines(wrong)


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    wrong = (
        found
        for found in ALL
        if found.top in HEAVY
        and not found.lazy
        and not found.importer.startswith((OPS, f"{CPU}.", LIBRARY))
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


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def test_options_are_known_to_editors() -> None:
    """No public function takes arbitrary keywords."""
    public = (getattr(caffe2flax, name) for name in caffe2flax.__all__)
    for function in filter(isfunction, public):
        for parameter in signature(function).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                assert parameter.annotation not in {"Any", "object"}, function


def test_options_are_documented_once() -> None:
    """Beside `options.py`, which documents them, only what reads the net spells them
    out."""
    names = set(ConversionOptions.__annotations__) - {"name"}
    repeated = [
        (module, node.name)
        for module, node in functions()
        if len(names & {arg.arg for arg in node.args.kwonlyargs}) > 3
    ]
    assert {module for module, _ in repeated} <= {
        "caffe2flax.ir.build",
        "caffe2flax.frontend.select",
    }


def test_a_graph_has_few_fields() -> None:
    """The results of passes are in its sub-structures, or are returned."""
    assert len(fields(Graph)) <= 12


def members(cls: type) -> set[str]:
    """The names in the body of a class, annotations included."""
    names = {*vars(cls), *vars(cls).get("__annotations__", {})}
    return {name for name in names if not name.startswith("_")}


def test_a_layer_has_few_members() -> None:
    assert len(members(Layer)) <= 20


def test_what_few_layers_override_is_no_member_of_layer() -> None:
    register_all()
    registered = {*LAYERS.values(), *(cls for _, cls in FAMILIES)}
    classes = {base for cls in registered for base in cls.__mro__} - {Layer}
    overridden = [name for cls in classes for name in members(cls) & members(Layer)]
    assert {name for name in members(Layer) if overridden.count(name) < 3} == set()


def test_codegen_names_no_layer_type() -> None:
    register_all()
    files = (ROOT / "caffe2flax" / "codegen").glob("*.py")
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    wrong = [
        f"{name}:{node.lineno}: {node.value}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in LAYERS
    ]
    assert not wrong
