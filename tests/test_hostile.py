"""Names are data: in modules, tests, pages, pictures and on terminals."""

from __future__ import annotations

import ast
import json
import keyword
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.codegen.library import library
from caffe2flax.conversion import read_graph
from caffe2flax.drawing.areas import Area, Located
from caffe2flax.drawing.dot import to_dot
from caffe2flax.drawing.picture import DRAWN, picture
from caffe2flax.frontend.prototxt import parse
from caffe2flax.frontend.upgrade.rewrite import upgraded_text
from caffe2flax.inspection.where import locate
from caffe2flax.verification.inputs import noise, noise_blobs
from caffe2flax.verification.observe import Observed
from caffe2flax.verification.page import page
from caffe2flax.verification.parity import parity_test
from caffe2flax.verification.reference import evaluate
from caffe2flax.verification.report import verify_conversion
from tests.hostile import NAMES, quoted

ROOT = Path(__file__).parents[1]
GROUP = 12
"""Names in one net."""
GROUPS = [NAMES[i : i + GROUP] for i in range(0, len(NAMES), GROUP)]


def net(names: list[str], title: str) -> str:
    """Every name as an input or a blob, a layer, a parameter, a stage and a file."""
    lines = [
        f"name: {quoted(title)}",
        f'layer {{ name: {quoted(title)} type: "Input" top: {quoted("in:" + title)} '
        "input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }",
    ]
    bottom = "in:" + title
    for name in names:
        lines.append(
            f'layer {{ name: {quoted(name)} type: "Convolution" '
            f"bottom: {quoted(bottom)} top: {quoted(name)} "
            f"param {{ name: {quoted('w' + name)} }} "
            f"exclude {{ stage: {quoted(name)} }} "
            "convolution_param { num_output: 2 kernel_size: 1 bias_term: false "
            "weight_filler { type: 'xavier' } } }"
        )
        bottom = name
    lines.append(
        f'layer {{ name: "soft{len(names)}" type: "Softmax" '
        f"bottom: {quoted(bottom)} top: {quoted('out:' + title)} }}"
    )
    return "\n".join(lines)


def data_net(name: str) -> str:
    """A name in the strings of data layers, none of which is opened."""
    return f"""
    layer {{ name: "data" type: "ImageData" top: "data" top: "label"
      transform_param {{ mean_file: {quoted(name)} crop_size: 4 scale: 0.5 }}
      image_data_param {{ source: {quoted(name)} root_folder: {quoted(name)}
        batch_size: 1 }} }}
    layer {{ name: "relu" type: "ReLU" bottom: "data" top: {quoted(name)} }}"""


def stub_net(name: str) -> str:
    """A layer of a type that nobody knows, with strings of its own."""
    return (
        'layer { name: "d" type: "Input" top: "d" '
        "input_param { shape { dim: 1 dim: 2 } } }"
        f'layer {{ name: {quoted(name)} type: {quoted("T" + name)} bottom: "d" '
        f'top: "t" odd_param {{ text: {quoted(name)} }} }}'
    )


@cache
def conversions() -> tuple[caffe2flax.Conversion, ...]:
    """Of all names: some together in every position, and each alone in strings."""
    made = [
        caffe2flax.convert(net(names, names[i % len(names)]), taps=names)
        for i, names in enumerate(GROUPS)
    ]
    for i, names in enumerate(GROUPS):
        name = names[-1 - i % len(names)]
        made.append(caffe2flax.convert(data_net(name)))
        made.append(caffe2flax.convert(stub_net(name), stub_unsupported=True))
    return tuple(made)


NODES = [
    "Module",
    "Expr",
    "Constant",
    "Import",
    "ImportFrom",
    "alias",
    "ClassDef",
    "FunctionDef",
    "arguments",
    "arg",
    "Load",
    "Store",
    "Name",
    "Attribute",
    "Call",
    "keyword",
    "Assign",
    "Return",
    "Tuple",
    "List",
    "Dict",
    "BinOp",
    "UnaryOp",
    "USub",
    "Add",
    "Sub",
    "Mult",
    "Div",
    "FloorDiv",
    "Pow",
    "Subscript",
    "Slice",
    "Starred",
    "BitOr",
    "Lambda",
    "IfExp",
    "Compare",
    "In",
    "BoolOp",
    "Or",
    "Raise",
    "AnnAssign",
]
"""Of the generated class; what stands below it are copies of our operations."""

IMPORTED = [
    "collections.abc",
    "flax",
    "flax.typing",
    "functools",
    "jax",
    "jax.numpy",
    "logging",
    "math",
    "numpy",
    "pathlib",
    "safetensors",
    "safetensors.flax",
    "types",
    "typing",
    "collections",
    "itertools",
]
CALLED = re.compile(
    r"(self|nnx|jnp|lax|jax|model|Path\(__file__\))(\.[A-Za-z_]\w*)+|"
    r"cls|partial|load_weights|NotImplementedError|conv|linear|"
    r"state\.get|with_\w+|\w+"
)
FORBIDDEN = {
    *[
        "eval",
        "exec",
        "compile",
        "open",
        "input",
        "__import__",
        "getattr",
        "setattr",
        "delattr",
        "globals",
    ],
    *[
        "locals",
        "vars",
        "breakpoint",
        "exit",
        "quit",
        "help",
        "dir",
        "memoryview",
        "print",
        "type",
        "object",
    ],
}


def checked(source: str, name: str) -> ast.Module:
    """The tree of a module in which nothing is done but what a module does."""
    tree = ast.parse(source)
    ours = {n: ast.dump(ast.parse(d.source)) for n, d in library().definitions.items()}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and (
            statement.name in ours
        ):
            copied = ast.Module([statement], [])
            assert ast.dump(copied) == ours[statement.name]
            continue
        assert isinstance(
            statement,
            ast.Expr | ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef,
        )
        if isinstance(statement, ast.Expr):
            assert isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.FunctionDef):
            assert statement.name == "preprocess"
        assert not getattr(statement, "decorator_list", [])
        for node in ast.walk(statement):
            assert type(node).__name__ in NODES, ast.unparse(node)
            if isinstance(node, ast.ImportFrom):
                assert node.module in IMPORTED
            elif isinstance(node, ast.Import):
                assert all(alias.name in IMPORTED for alias in node.names)
            elif isinstance(node, ast.Call):
                called(node, statement)
            elif isinstance(node, ast.Attribute):
                assert not node.attr.startswith("__")
            elif isinstance(node, ast.Name):
                assert node.id == "__file__" or not node.id.startswith("__")
    assert any(isinstance(s, ast.ClassDef) and s.name == name for s in tree.body)
    return tree


def called(node: ast.Call, scope: ast.stmt) -> None:
    """A method of ours, a function of Flax or JAX, an operation of our own, or a short
    name that the same function binds to one."""
    func = node.func
    if isinstance(func, ast.Name):
        bound = {
            target.id
            for inner in ast.walk(scope)
            if isinstance(inner, ast.Assign)
            and isinstance(inner.value, ast.Call)
            and ast.unparse(inner.value.func) == "partial"
            for target in inner.targets
            if isinstance(target, ast.Name)
        }
        known = {"cls", "partial", "NotImplementedError", "Path"} | bound
        assert func.id in known | library().definitions.keys(), func.id
        assert func.id not in FORBIDDEN
        return
    assert isinstance(func, ast.Attribute), ast.unparse(func)
    root = ast.unparse(func).partition(".")[0]
    assert root in {
        "self",
        "nnx",
        "jnp",
        "lax",
        "jax",
        "model",
        "state",
        "Path(__file__)",
    }


def test_there_are_enough() -> None:
    assert len(NAMES) >= 500
    assert len(set(NAMES)) == len(NAMES)


def test_modules_do_nothing_but_what_modules_do() -> None:
    for made in conversions():
        for line in made.source.splitlines():
            assert line.isascii()
            assert line.isprintable()
        checked_tree(made)


def checked_tree(made: caffe2flax.Conversion) -> None:
    tree = ast.parse(made.source)
    classmethods = [
        mark
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list
        if ast.unparse(mark) == "classmethod"
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = [
                m for m in node.decorator_list if m not in classmethods
            ]
    library_free(tree, made)


def library_free(tree: ast.Module, made: caffe2flax.Conversion) -> None:
    checked(ast.unparse(tree), made.name)


def attributes(made: caffe2flax.Conversion) -> Iterator[tuple[str, str]]:
    for node in made.graph.nodes:
        position = made.positions.get(node.number)
        if position is not None and position.attribute:
            yield node.name, ".".join(filter(None, (position.path, position.attribute)))


def by_the_rule(name: str) -> str:
    """docs/generated-code.md, "Names", but for what is taken."""
    word = re.sub("[^A-Za-z0-9_]", "_", name).lstrip("_")[:60]
    return (f"n{word}"[:60] if word[:1].isdigit() else word) or "unnamed"


def test_names_come_back() -> None:
    """Blobs by the keys of what is returned, layers by their attributes and where."""
    for names, made in zip(GROUPS, conversions(), strict=False):
        tree = ast.parse(made.source)
        keys = {
            key.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Dict)
            for key in node.keys
            if isinstance(key, ast.Constant)
        }
        assert set(names) <= keys
        found = dict(attributes(made))
        assert found.keys() == set(names)
        assert len(set(found.values())) == len(names)
        for name, attribute in found.items():
            stem = by_the_rule(name)
            assert re.fullmatch(rf"{re.escape(stem)}(_|_?_\d+)?", attribute), name
            assert attribute.isidentifier()
            assert not keyword.iskeyword(attribute)
        for name in names[:2]:
            assert name in {place.name for place in locate(made, None, name)}


def test_the_same_every_time() -> None:
    for names, made in list(zip(GROUPS, conversions(), strict=False))[::9]:
        i = GROUPS.index(names)
        text = net(names, names[i % len(names)])
        assert caffe2flax.convert(text, taps=names).source == made.source


IMPORTER = """
import importlib.util, logging, pathlib, sys
import jax, flax.nnx, numpy, safetensors.flax
import collections.abc, functools, types, typing
def watch(event, args):
    if event.split(".")[0] in ("os", "subprocess", "socket", "shutil", "ctypes", "pty"):
        if event not in ("os.listdir", "os.scandir"):
            raise RuntimeError(f"{event} {args}")
    if event == "open" and not str(args[0]).startswith(sys.argv[1]):
        raise RuntimeError(f"{event} {args}")
    if event == "open" and args[1] not in ("r", "rb", None):
        raise RuntimeError(f"{event} {args}")
    if event == "import" and args[0] not in sys.modules and "." not in args[0]:
        raise RuntimeError(f"{event} {args}")
sys.dont_write_bytecode = True
files = sorted(pathlib.Path(sys.argv[1]).rglob("*.py"))
sys.addaudithook(watch)
for file in files:
    spec = importlib.util.spec_from_file_location("checked", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
print(len(files))
"""


def test_modules_are_clean_and_run_nothing(tmp_path: Path) -> None:
    for i, made in enumerate(conversions()):
        folder = tmp_path / "modules" / str(i)
        written = made.write(folder)
        assert {path.parent for path in written} == {folder}
        assert len(list(folder.iterdir())) == 1
        assert written[0].stem not in sys.stdlib_module_names
        assert written[0].stem not in ("jax", "flax", "conftest")
    for check in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *check,
            "--isolated",
            "--no-cache",
            "-q",
        ]
        done = subprocess.run(
            [*command, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTER, str(tmp_path / "modules")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{len(conversions())}\n", done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == ["modules"]


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        for key, value in attrs:
            assert not key.startswith("on"), (key, value)
            if key == "href":
                assert value is not None
                assert value.startswith("#") or value == "data:,"
            if key == "src":
                assert value is not None
                assert value.startswith("data:image/svg+xml;base64,")


TAGS = {
    "html",
    "head",
    "meta",
    "link",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "div",
    "svg",
    "line",
    "text",
    "a",
    "circle",
    "table",
    "tr",
    "th",
    "td",
    "b",
    "code",
    "pre",
    "span",
    "img",
    "li",
    "ul",
}


@pytest.mark.parametrize("group", range(0, len(GROUPS), 6))
def test_pages_and_tests(group: int) -> None:
    names = GROUPS[group]
    made = caffe2flax.conversion.convert(
        net(names, names[0]), None, filled=True, default_blobs=noise_blobs
    )
    inputs = noise(made.graph, {})
    report = verify_conversion(
        made,
        inputs,
        lambda made, given: Observed(evaluate(made.graph, made.blobs, given)),
    )
    drawn = picture(read_graph(net(names, names[0]), passes=DRAWN))
    text = page(report, Located(drawn, b"<svg/>", 9, 9, (Area(0, 1, 1, 5, 5),)))
    assert all(c.isprintable() or c == "\n" for c in text)
    tags = Tags()
    tags.feed(text)
    assert tags.found <= TAGS
    source, _ = parity_test(report, Path("test_net.py"))
    tree = ast.parse(source)
    outputs = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OUTPUTS"
    )
    assert outputs == tuple(value.blob for value in made.graph.outputs)
    assert len(tree.body) == 11
    json.loads(json.dumps(report.to_dict()))


def test_pictures() -> None:
    """Each name stays inside the label of its box: the number of statements tells."""

    def shape(text: str) -> list[str]:
        plain = re.sub(r"label=<.*>", "", text)
        plain = re.sub(r'"(\\.|[^"\\])*"', '""', plain)
        return re.findall(r"n\d+ \[|->|subgraph|evil", plain)

    plain = [f"name{i}" for i in range(GROUP)]
    usual = shape(to_dot(picture(read_graph(net(plain, "plain"), passes=DRAWN))))
    for names in GROUPS[:-1:3]:
        drawn = to_dot(picture(read_graph(net(names, names[0]), passes=DRAWN)))
        assert shape(drawn) == usual
        assert all(c.isprintable() or c in "\n\t" for c in drawn)


@pytest.mark.parametrize("group", range(0, len(GROUPS), 8))
def test_terminals(
    group: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command prints a control character, whatever the names."""
    names = GROUPS[group]
    path = tmp_path / "net.prototxt"
    path.write_text(net(names, names[0]))
    bad = tmp_path / "bad.prototxt"
    bad.write_text("\n".join(map(stub_net, names)))
    commands = [
        ["inspect", str(path)],
        ["inspect", str(path), "--json"],
        ["inspect", str(path), "--where", names[0] or "x"],
        ["convert", str(path), "-o", str(tmp_path / "out")],
        ["draw", str(path), "-o", str(tmp_path / "net.dot")],
        ["draw", str(path), "-o", str(tmp_path / "net.dot"), "--json", "--force"],
        ["convert", str(bad), "-o", str(tmp_path / "out")],
        ["inspect", str(bad)],
    ]
    for argv in commands:
        assert main(argv) in (0, 1)
        out, err = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in out + err)


def test_upgrades_keep_names() -> None:
    for names in GROUPS[::2]:
        old = "\n".join(
            f"layers {{ name: {quoted(name)} type: RELU bottom: {quoted(name)} "
            f"top: {quoted(name)} }}"
            for name in names
        )
        new = parse(upgraded_text(old))
        found = [
            inner.value.text
            for layer in new.all("layer")
            for inner in layer.value.all("top")
        ]
        assert found == names


@pytest.mark.parametrize("name", ["../x", "a/b", "x y", "", "class", "a;b", "..", "-x"])
def test_class_names_are_checked(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net(["a"], "b"))
    assert main(["convert", str(path), "-o", str(tmp_path), f"--name={name}"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["net.prototxt"]
