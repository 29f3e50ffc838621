"""The training script: the text of a program that its owner runs, reads and edits."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.library import Library, import_lines, loaded_names, read
from caffe2flax.ir.call import literal
from caffe2flax.ir.syntax import parse_module
from caffe2flax.training.rates import COUNTED, number
from caffe2flax.training.script_text import (
    DIFFS,
    ENTRY,
    JITTED,
    LOSS_STEP,
    MAIN,
    NO_RESTORE,
    RESTORE,
    SAVE,
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

    def source(self) -> str:
        """The program, formatted."""
        parts = [
            "\n".join(self._constants()),
            self.rate,
            self.optimizer,
            *self.batches,
            *self._steps(),
            self._main(),
        ]
        body = GAP.join(part.strip("\n") for part in parts)
        definitions = _library().needed(f"{body}\n{self.blobs}")
        carried = GAP.join(d.source for d in definitions)
        whole = GAP.join(filter(None, (body, self.blobs, carried, ENTRY)))
        head = f'"""{self.summary}\n{USAGE.format(stem=self.stem)}"""'
        names = _imported(parse_module(whole))
        imports = "\n\n".join(import_lines(names, _library().imports))
        module = f"from {self.stem} import {self.name}"
        return format_source(f"{head}\n\n{imports}\n\n{module}\n\n{whole}\n")

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
        if self.blobs:
            yield f"HISTORY = {literal(tuple(self.fields))}"

    def _steps(self) -> Iterable[str]:
        given = _given(self.inputs)
        shown = "losses"
        if self.hidden:
            shown = "{name: losses[name] for name in losses.keys() - HIDDEN}"
        yield TRAIN_STEP.format(name=self.name, given=given, shown=shown)
        yield JITTED
        yield LOSS_STEP.format(name=self.name, given=given)
        for i, test in enumerate(self.tests):
            given = _given(test.inputs)
            yield TEST_STEP.format(name=self.name, suffix=_suffix(i), given=given)

    def _main(self) -> str:
        solver, tests = self.solver, range(len(self.tests))
        steps = ", ".join(f"test_step{_suffix(i)}" for i in tests)
        shuffle = "seed=SEED, shuffle=True" if self.shuffle else "seed=SEED"
        reads = ", ".join(f"iter(test{_suffix(i)}_batches(seed=SEED))" for i in tests)
        moved = ", *begun" if solver.lr_policy == "multistep" else ""
        current = f"current_step(i - 1{moved})" if solver.lr_policy in COUNTED else "0"
        format_ = "binary"
        write = f"write_snapshot(PREFIX, {literal(self.name)}, *saved)"
        if solver.snapshot_format == "HDF5":
            format_, write = "hdf5", "write_hdf5_snapshot(PREFIX, *saved)"
        diffs = DIFFS if solver.snapshot_diff else ""
        save = SAVE.format(count=current, write=write, diffs=diffs, format=format_)
        return MAIN.format(
            name=self.name,
            model=self.model,
            rate=f"i{moved}",
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
    "partial": "from functools import partial",
}
"""What the script itself needs besides."""


def _suffix(i: int) -> str:
    return f"_{i}" if i else ""
