"""The training script: the text of a program that its owner runs, reads and edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.library import Library, import_lines, loaded_names, read
from caffe2flax.ir.call import literal
from caffe2flax.ir.syntax import parse_module


@dataclass(frozen=True, slots=True)
class TestNet:
    """A net that the run tests.

    iterations: batches of a test. weights: blob -> loss_weight.
    """

    iterations: int
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Script:
    """What a training script is made of.

    name: the class of the module. stem: the module. summary: the docstring's first
    line. constants: lines of names and values. model: the expression that makes the
    model. parts: source of `learning_rate`, `transformation`, `train_batches`,
    `test_batches` and of the table BLOBS. weights: blob -> loss_weight. random: whether
    `losses` takes `rngs`.
    """

    name: str
    stem: str
    summary: str
    constants: Sequence[Mapping[str, object]]
    model: str
    parts: Sequence[str]
    weights: Mapping[str, float]
    tests: Sequence[TestNet]
    random: bool
    compute_test_loss: bool
    keeps_blobs: bool
    """Whether snapshots in Caffe's format can be written."""

    def source(self) -> str:
        """The program, formatted."""
        constants = (
            f"{', '.join(line)} = {', '.join(map(literal, line.values()))}"
            for line in self.constants
        )
        body = "\n\n\n".join(
            part.strip("\n")
            for part in (
                "\n".join(constants),
                *self.parts,
                *self._steps(),
                self._main(),
            )
        )
        carried = "\n\n\n".join(d.source for d in _library().needed(body))
        whole = f"{body}\n\n\n{carried}\n\n\n{ENTRY}"
        head = f'"""{self.summary}\n{USAGE.format(stem=self.stem)}"""'
        names = loaded_names(parse_module(whole))
        imports = "\n\n".join(import_lines(names, _library().imports))
        module = f"from {self.stem} import {self.name}"
        return format_source(f"{head}\n\n{imports}\n\n{module}\n\n{whole}\n")

    def _steps(self) -> Iterable[str]:
        rngs = ", rngs=rngs" if self.random else ""
        yield TRAIN_STEP.format(name=self.name, rngs=rngs)
        yield LOSS_STEP.format(name=self.name, rngs=rngs)
        for i in range(len(self.tests)):
            yield TEST_STEP.format(name=self.name, suffix=_suffix(i))

    def _main(self) -> str:
        steps = ", ".join(f"test_step{_suffix(i)}" for i in range(len(self.tests)))
        return MAIN.format(model=self.model, name=self.name, steps=steps)


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
    "grain": "import grain.python as grain",
}
"""What the script itself needs besides."""


def _suffix(i: int) -> str:
    return f"_{i}" if i else ""


USAGE = """
    python {stem}_train.py [--resume] [--max-iter N] [--devices N]

--help says more. What it needs besides jax, flax, optax, grain and orbax-checkpoint is
imported below.
"""

TRAIN_STEP = '''
@partial(nnx.jit, donate_argnums=(0, 1))
def train_step(
    model: {name}, optimizer: nnx.Optimizer, rngs: nnx.Rngs, batch: dict[str, Array]
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """One pass: the total loss, the losses, and which gradients are finite."""

    def loss(model: {name}, rngs: nnx.Rngs) -> tuple[Array, dict[str, Array]]:
        losses = model.losses(**batch{rngs})
        return model.total_loss(losses), losses

    (total, losses), grads = nnx.value_and_grad(loss, has_aux=True)(model, rngs)
    optimizer.update(model, grads)
    finite = {{name: jnp.isfinite(g).all() for name, g in named(grads).items()}}
    return total, losses, finite
'''

LOSS_STEP = """
@nnx.jit
def loss_step(model: {name}, rngs: nnx.Rngs, batch: dict[str, Array]) -> Array:
    '''The total loss of a pass that no update follows.'''
    return model.total_loss(model.losses(**batch{rngs}))
"""

TEST_STEP = """
@nnx.jit
def test_step{suffix}(model: {name}, batch: dict[str, Array]) -> dict[str, Array]:
    model = nnx.merge(*nnx.split(model))
    model.eval()
    return model.metrics{suffix}(**batch)
"""

ENTRY = """if __name__ == "__main__":
    main()"""

MAIN = """
def main() -> None:
    options = arguments(__doc__)
    signals, mesh = Signals(), make_mesh(options)
    model = {model}
    model.train()
    optimizer = nnx.Optimizer(model, transformation(), wrt=nnx.Param)
    rngs = nnx.Rngs(SEED)
    data, tests = iter(train_batches()), [iter(each) for each in test_batches()]
    window = deque[Any](maxlen=AVERAGE_LOSS)
    state = {{"model": model, "optimizer": optimizer, "rngs": rngs}}
    checkpoints = Checkpoints(PREFIX)
    i, end = 0, MAX_ITER if options.max_iter is None else options.max_iter
    goes_on = bool(options.resume or options.snapshot)
    log, watch = Log(PREFIX, goes_on), Watch()
    if options.snapshot:
        i = restore(options.snapshot, model, optimizer)
        path = options.snapshot
        log(f"Restoring from {{path}}", kind="restore", file=path)
    elif options.resume and (found := checkpoints.restore(state)):
        i, rest = found
        window.extend(rest["window"])
        for each, position in zip([data, *tests], rest["data"], strict=True):
            each.set_state(position)
        log(f"Resuming from iteration {{i}}", kind="restore", iteration=i)
    replicate(mesh, *state.values())

    def test() -> None:
        for net, step in enumerate([{steps}]):
            log(f"Iteration {{i}}, Testing net (#{{net}})")
            batches = (share(mesh, next(tests[net])) for _ in range(TEST_ITER[net]))
            every = [step(model, batch) for batch in batches]
            lines, outputs = shown("Test", mean_of(every), LOSS_WEIGHTS)
            log(*lines, kind="test", iteration=i, net=net, outputs=outputs)

    def snapshot() -> None:
        watch.finish()
        positions = [each.get_state() for each in (data, *tests)]
        rest = {{"data": positions, "window": [float(x) for x in window]}}
        checkpoints.save(i, state, rest)
        for kind, path in save(i, model, optimizer):
            log(f"Snapshotting to {{path}}", kind=kind, file=path.name)

    log("Solving {name}")
    while i < end and not signals.ends:
        if TEST_INTERVAL and i % TEST_INTERVAL == 0 and (i or TEST_INITIALIZATION):
            test()
        passes = [
            train_step(model, optimizer, rngs, share(mesh, next(data)))
            for _ in range(ITER_SIZE)
        ]
        window.append(sum(total for total, *_ in passes) / ITER_SIZE)
        for total, _, finite in passes:
            watch(i, total, finite)
        if DISPLAY and i % DISPLAY == 0:
            loss, rate = mean(window), float(learning_rate(i))
            lines, outputs = shown("Train", passes[-1][1], LOSS_WEIGHTS)
            entry = {{"loss": loss, "outputs": outputs, "lr": rate}}
            lines = [f"Iteration {{i}}, loss = {{loss:.6g}}", *lines]
            lines += [f"Iteration {{i}}, lr = {{rate:.6g}}"]
            log(*lines, kind="display", iteration=i, **entry)
        i += 1
        if (SNAPSHOT and i % SNAPSHOT == 0) or signals.wants_snapshot():
            snapshot()
    stopped = signals.ends or end != MAX_ITER
    if (stopped or SNAPSHOT_AFTER_TRAIN) and i not in checkpoints:
        snapshot()
    if signals.ends:
        log("Optimization stopped early.", kind="stopped", iteration=i)
        return
    if DISPLAY and i % DISPLAY == 0:
        window.append(loss_step(model, rngs, share(mesh, next(data))))
        loss = mean(window)
        log(f"Iteration {{i}}, loss = {{loss:.6g}}", kind="end", iteration=i, loss=loss)
    if TEST_INTERVAL and i % TEST_INTERVAL == 0:
        test()
    log("Optimization Done.", kind="done")
"""
