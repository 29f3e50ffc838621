"""README.md, docs/ and examples/: generated parts are current, links lead somewhere,
commands and programs run as they are written."""

from __future__ import annotations

import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.training.parameter import SolverParameter
from tests import documented
from tests.docs import (
    BY_HAND,
    DOCUMENTS,
    EXAMPLES,
    PARTS,
    README,
    ROOT,
    TRAINED,
    example,
    parts,
    training_example,
    with_part,
    written,
)
from tests.golden import cases

NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = {"pip", "pytest", "ruff", "mypy", "git", "cd", "pre-commit"}
"""Programs that the documents name and the tests do not run."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block that is not generated."""
    text = read(path)
    for name in parts(text):
        if name not in BY_HAND:
            text = with_part(text, name, "")
    return FENCE.findall(text)


RUN = [
    path
    for path in DOCUMENTS
    if any(language in ("sh", "python") for language, _ in blocks(path))
]


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= 180


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_generated_parts_are_current(path: Path) -> None:
    """`python -m tests.docs` brings them up to date. A layer type may be missing from
    the list of layers, so that a new one is a class and a fixture and nothing else."""
    text = read(path)
    known = {name for name in parts(text) if not name.startswith("help-")}
    assert known <= PARTS.keys() | BY_HAND
    if path.name == "layers.md":
        lines = iter(written(text).splitlines())
        assert all(line in lines for line in text.splitlines())
    else:
        assert text == written(text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_converted_examples_are_current(name: str) -> None:
    """`python -m tests.docs` brings them up to date."""
    assert read(ROOT / "examples" / name) == example(name)


def test_the_training_example_is_current() -> None:
    """`python -m tests.docs` brings it up to date; tests/cli/test_train.py runs it."""
    folder = ROOT / "examples" / "training"
    assert {path.name: read(path) for path in folder.glob("*.py")} == training_example()


def test_each_field_of_a_solver_is_in_the_table() -> None:
    table = read(ROOT / "docs" / "training.md").partition("| field | here |")[2]
    known = {each.name for each in fields(SolverParameter)} - {"file", "notes"}
    rows = [row.split("|")[1] for row in table.split("\n\n")[0].splitlines()[2:]]
    listed = set(re.findall(r"`(\w+)`", "".join(rows)))
    of_caffe = {"solver_mode", "device_id", "layer_wise_reduce", "debug_info"}
    assert listed - known == {"solver_type", *of_caffe}
    assert known <= listed


def test_examples_are_listed() -> None:
    text = read(ROOT / "examples" / "README.md")
    assert f"caffe2flax train {TRAINED} -o examples/training --script-only" in text
    for name in training_example():
        assert f"(training/{name})" in text
    for path in ROOT.glob("examples/*.py"):
        assert f"({path.name})" in text
    for name, (net, class_name) in EXAMPLES.items():
        assert f"caffe2flax convert {net} --name {class_name} -o examples" in text
        assert name == f"{class_name.lower()}.py"


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(read(path)):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(read(target)), link


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in words}


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link).resolve() for link in LINK.findall(read(README))}
    assert {*ROOT.glob("docs/*.md"), ROOT / "CHANGELOG.md"} <= linked


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that commands of the documents work on."""
    folder = tmp_path_factory.mktemp("documents")
    documented.make(folder)
    return folder


@pytest.fixture
def here(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of it as the current folder, whose modules can be imported."""
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget(folder)


def forget(folder: Path) -> None:
    """Modules of the folder, which a command may write anew, are imported again."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize("path", RUN, ids=[path.stem for path in RUN])
@pytest.mark.usefixtures("own_layers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_commands_and_programs_run(
    path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the document, with the names of one program known to the next."""
    names = documented.arrays()
    for language, text in blocks(path):
        if language == "python":
            with (
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
            ):
                exec(compile(text, str(path), "exec"), names)
        elif language == "sh":
            for line in text.splitlines():
                for command in line.partition("  #")[0].split(" && "):
                    execute(command, capsys)
            forget(here)


def execute(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One command of a document; of others than caffe2flax, whether it exists."""
    line, _, target = command.partition(" >")
    program, *arguments = shlex.split(line)
    if program == "caffe2flax":
        if arguments[-1].endswith((".svg", ".html")) and shutil.which("dot") is None:
            return
        if arguments[0] == "train":  # a script of its own, which keeps what it opens
            # One run after the other compiles the same steps.
            own = {**os.environ, "PYTHONPATH": str(ROOT)}
            own["JAX_COMPILATION_CACHE_DIR"] = str(Path("compiled").absolute())
            own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            own["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
            words = [sys.executable, "-m", "caffe2flax", *arguments]
            subprocess.run(words, env=own, check=True, capture_output=True)
            return
        assert main(arguments) == 0, (command, capsys.readouterr().err)
        if target:
            assert capsys.readouterr().out
    elif program == "python" and arguments[0] == "-m":
        assert find_spec(arguments[1]) is not None, command
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), command
    else:
        assert program in NOT_RUN or (ROOT / program).is_file(), command


PROGRAMS = (
    "classify.py",
    "deploy_stablehlo.py",
    "detect.py",
    "finetune.py",
    "neighbours.py",
    "opencv_onnx.py",
    "style.py",
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_example_programs(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each exits with 0 if it did what its docstring says."""
    path = ROOT / "examples" / program
    assert f"python examples/{program}" in read(path)
    arguments = []
    if program == "detect.py":
        arguments = [str(tmp_path / "photo.png"), str(tmp_path / "boxes.png")]
        Image.fromarray(documented.pixels(60, 80)).save(arguments[0])
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_path(str(path), run_name="__main__")
    forget(path.parent)
    assert not ended.value.code
    if arguments:
        with Image.open(arguments[1]) as drawn:
            assert drawn.size == (80, 60)
            assert (np.asarray(drawn) == (255, 0, 0)).all(-1).sum() > 50


def test_the_cases_are_counted() -> None:
    text = read(ROOT / "docs" / "exactness.md")
    refused = sum("error" in case.facts for case in cases("layers"))
    assert f"{len(cases('layers')) - refused} recorded cases of the layer types" in text
    assert f"{refused} nets on which Caffe aborts" in text


@pytest.mark.parametrize("name", ["GoogLeNet", "ResNet-50"])
def test_the_lines_are_counted(name: str) -> None:
    """Those up to the functions below the classes, flat and with blocks."""
    net = ROOT / "fixtures/networks" / f"{name.lower().replace('-', '')}.prototxt"
    sources = [caffe2flax.convert(net, flat=flat).source for flat in (True, False)]
    flat, blocks = (
        len(text.partition("\n\n\ndef check_shape")[0].splitlines()) for text in sources
    )
    row = f"| {name} | {flat} | {blocks} |"
    assert row in read(ROOT / "docs" / "generated-code.md")


def test_the_measured_ratios_are_those_of_the_results() -> None:
    """docs/performance.md and README.md quote benchmarks/results.md."""
    results = read(ROOT / "benchmarks" / "results.md")
    text = read(ROOT / "docs" / "performance.md")
    _, calls = results.split("### Milliseconds a call\n\n", 1)
    rows = [row.split("|") for row in calls.split("\n\n")[0].splitlines()[2:]]
    faster = [float(row[3]) / float(row[2]) for row in rows]
    span = f"{math.floor(10 * min(faster)) / 10} to {round(max(faster))} times as fast"
    assert span in text
    assert span in read(README)
    others = results.split("| geometric mean |")[1].splitlines()[0].strip(" |")
    ours = math.exp(-sum(map(math.log, faster)) / len(faster))
    assert f"| {ours:.2f} | {others} |" in text
    _, steps = results.split("## A training step", 1)
    lines = [x for x in steps.split("Measured")[0].splitlines() if x.startswith("|")]
    assert len(lines) > 2
    for line in lines[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        by_jit = float(cells[0]) / float(cells[1])
        title = ", batch ".join(name.rsplit(" ", 1))
        assert f"| {title} | {cells[4]} | {cells[5]} | {by_jit:.2f} |" in text
