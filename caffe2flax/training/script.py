"""The training script: the text of a program that its owner runs, reads and edits."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from caffe2flax.codegen.format import format_source, paragraph
from caffe2flax.codegen.library import Library, import_lines, loaded_names, read
from caffe2flax.ir.call import literal
from caffe2flax.ir.syntax import parse_module
from caffe2flax.training.rates import COUNTED, number
from caffe2flax.training.script_text import (
    ABOUT,
    DIFFS,
    ENTRY,
    JITTED,
    LOSS_STEP,
    MAIN,
    MOVED_RATE,
    NO_RESTORE,
    RESTORE,
    RESTORE_SNAPSHOT,
    SAVE,
    SAVE_SNAPSHOT,
    TEST_LOSS,
    TEST_STEP,
    TRAIN_STEP,
    USAGE,
)
from caffe2flax.training.solver import Solver


@dataclass(frozen=True, slots=True)
class TestNet:
    """A net that the run tests. inputs: the blobs that `metrics` takes, in its order.
    weights: blob -> loss_weight."""

    inputs: Sequence[str]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Script:
    """What a training script is made of.

    name: the class of the module. stem: the module. summary: the docstring's first
    line. prefix: of the snapshots' names. model: the expression that makes the model.
    rate, optimizer: source of `learning_rate` and `make_optimizer`. batches: of
    `train_batches`, `test_batches`, `test_1_batches`, ... blobs: of the table BLOBS;
    empty where no snapshots in Caffe's formats can be written. fields: those of optax's
    state that are Caffe's history. weights: blob -> loss_weight. inputs: the blobs that
    `losses` takes, in its order. hidden: those that it returns and Caffe does not
    print.
    """

    name: str
    stem: str
    summary: str
    version: str
    solver: Solver
    prefix: str
    model: str
    rate: str
    optimizer: str
    batches: Sequence[str]
    blobs: str
    fields: Sequence[str]
    weights: Mapping[str, float]
    inputs: Sequence[str]
    hidden: Sequence[str]
    tests: Sequence[TestNet]
    shuffle: bool

    def sources(self) -> dict[str, str]:
        """The program, its data and its tools, by file name, formatted."""
        library, stem = _library(), self.stem
        parts = [
            "\n".join(self._constants()),
            self.rate,
            self.optimizer,
            *self._steps(),
            self._main(),
            ENTRY,
        ]
        body = GAP.join(part.strip("\n") for part in parts)
        used = loaded_names(parse_module(body))
        own = [f"from {stem} import {self.name}"]
        data = GAP.join(part.strip("\n") for part in self.batches)
        if "HERE" in loaded_names(parse_module(data)):
            data = f"HERE = os.path.dirname(os.path.realpath(__file__)){GAP}{data}"
        made = [f"{name}_batches" for name in test_names(len(self.tests))]
        own.append(_from(f"{stem}_data", ["train_batches", *made]))
        tools = [*self._snapshots(), JITTED]
        defined = {"HISTORY", "jitted", "save_snapshot", "restore_snapshot"}
        names = used & (library.definitions.keys() | defined)
        carried = library.needed(GAP.join([*tools, f"({', '.join(sorted(names))})"]))
        own.append(_from(f"{stem}_tools", names))
        about = paragraph(" ".join(ABOUT.format(stem=stem).split()), 88)
        return {
            f"{stem}_train.py": _file(
                f"{self.summary}\n{USAGE.format(stem=stem, about=about)}", [body], own
            ),
            f"{stem}_data.py": _file(
                f"Batches for {stem}_train.py.",
                [data, *(each.source for each in library.needed(data))],
            ),
            f"{stem}_tools.py": _file(
                f"What else {stem}_train.py needs: log, devices, snapshots.",
                [*tools, *(each.source for each in carried)],
            ),
        }

    def _constants(self) -> Iterable[str]:
        solver = self.solver
        yield f"PREFIX = Path(__file__).with_name({literal(self.prefix)})"
        yield f"MAX_ITER, ITER_SIZE = {solver.max_iter}, {solver.iter_size}"
        yield f"DISPLAY, AVERAGE_LOSS = {solver.display}, {solver.average_loss}"
        interval, first = solver.test_interval, solver.test_initialization
        yield f"TEST_INTERVAL, TEST_INITIALIZATION = {interval}, {first}"
        yield f"TEST_ITER = {literal(solver.test_iter)}"
        after = solver.snapshot_after_train
        yield f"SNAPSHOT, SNAPSHOT_AFTER_TRAIN = {solver.snapshot}, {after}"
        yield f"SEED = {max(solver.random_seed, 0)}"
        weights = [self.weights, *(test.weights for test in self.tests)]
        shown = ", ".join(literal_map(each) for each in weights)
        yield f"LOSS_WEIGHTS = [{shown}]  # in training, then in tests"
        if self.hidden:
            hidden = literal(tuple(self.hidden))
            yield f"HIDDEN = {hidden}  # they count, but are no outputs of Caffe's net"

    def _steps(self) -> Iterable[str]:
        given = _given(self.inputs)
        shown = "losses"
        if self.hidden:
            shown = "{name: losses[name] for name in losses.keys() - HIDDEN}"
        yield TRAIN_STEP.format(name=self.name, given=given, shown=shown)
        yield LOSS_STEP.format(name=self.name, given=given)
        for i, test in enumerate(self.tests):
            given = _given(test.inputs)
            yield TEST_STEP.format(name=self.name, suffix=_suffix(i), given=given)

    def _snapshots(self) -> Iterable[str]:
        """What reads and writes Caffe's files."""
        if not self.blobs:
            return
        yield f"{self.blobs}\n\nHISTORY = {literal(tuple(self.fields))}"
        write = f"write_snapshot(prefix, {literal(self.name)}, *saved)"
        if self.solver.snapshot_format == "HDF5":
            write = "write_hdf5_snapshot(prefix, *saved)"
        diffs = DIFFS if self.solver.snapshot_diff else ""
        yield SAVE_SNAPSHOT.format(write=write, diffs=diffs)
        yield RESTORE_SNAPSHOT

    def _main(self) -> str:
        solver, tests = self.solver, range(len(self.tests))
        steps = ", ".join(f"test_step{_suffix(i)}" for i in tests)
        shuffle = "seed=SEED, shuffle=True" if self.shuffle else "seed=SEED"
        names = test_names(len(tests))
        reads = ", ".join(f"iter({name}_batches(seed=SEED))" for name in names)
        moved = ", *begun" if solver.lr_policy == "multistep" else ""
        current = f"current_step(i - 1{moved})" if solver.lr_policy in COUNTED else "0"
        binary = solver.snapshot_format == "BINARYPROTO"
        save = SAVE.format(count=current, format="binary" if binary else "hdf5")
        return MAIN.format(
            name=self.name,
            model=self.model,
            moved_rate=MOVED_RATE if moved else "",
            rate="rate" if moved else "",
            rate_of="rate" if moved else "learning_rate",
            data=f"iter(train_batches({shuffle}))",
            tests=f"[{reads}]",
            steps=steps,
            test_loss=TEST_LOSS if solver.test_compute_loss else "",
            test_entry=", total_loss=total" if solver.test_compute_loss else "",
            save=save if self.blobs else "",
            restore=RESTORE if self.blobs else NO_RESTORE,
        )


GAP = "\n\n\n"


def literal_map(values: Mapping[str, float]) -> str:
    pairs = (f"{literal(k)}: {number(v)}" for k, v in values.items())
    return f"{{{', '.join(pairs)}}}"


def _given(blobs: Sequence[str]) -> str:
    return ", ".join(f"batch[{literal(blob)}]" for blob in blobs)


def test_names(count: int) -> list[str]:
    """What the data of each net for tests are called."""
    return [f"test{_suffix(i)}" for i in range(count)]


def _file(about: str, parts: Iterable[str], own: Sequence[str] = ()) -> str:
    """A file of Python, formatted. own: imports from files beside it."""
    whole = GAP.join(part.strip("\n") for part in parts)
    names = _imported(parse_module(whole))
    groups = [*import_lines(names, _library().imports), "\n".join(own)]
    imports = "\n\n".join(filter(None, groups))
    gap = GAP if whole.startswith(("@", "class ", "def ")) else "\n\n"
    return format_source(f'"""{about}"""\n\n{imports}{gap}{whole}\n')


def _from(module: str, names: Iterable[str]) -> str:
    """An import, as ruff sorts it."""
    lines = {name: f"from {module} import {name}" for name in names}
    return "\n".join(import_lines(lines, lines))


def _imported(tree: ast.Module) -> Collection[str]:
    """The names that the file is to import: not those that a function imports."""
    inside = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return loaded_names(tree) - inside


@cache
def _library() -> Library:
    """All of `training/library/`; its files are not imported, as they need jax."""
    folder = files("caffe2flax.training").joinpath("library")
    found = sorted(folder.iterdir(), key=lambda item: item.name)
    texts = [f.read_text(encoding="utf-8") for f in found if f.name.endswith(".py")]
    made = read(texts)
    return Library(made.definitions, {**made.imports, **IMPORTS})


IMPORTS = {
    "Any": "from typing import Any",
    "deque": "from collections import deque",
    "optax": "import optax",
    "Callable": "from collections.abc import Callable",
    "Array": "from jax import Array",
    "jax": "import jax",
    "grain": "import grain",
    "nnx": "from flax import nnx",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "Path": "from pathlib import Path",
    "os": "import os",
    "partial": "from functools import partial",
}
"""What the script itself needs besides."""


def _suffix(i: int) -> str:
    return f"_{i}" if i else ""
