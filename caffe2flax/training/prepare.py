"""From a solver to the files of a training run: module, weights and script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from caffe2flax.codegen.names import module_stem
from caffe2flax.conversion import VERSION, Weights
from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.files.atomic import Write, write_all
from caffe2flax.frontend.source import PathOrText
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layout import Shape
from caffe2flax.options import one_or_more
from caffe2flax.training.blobs import learnable_blobs, multipliers
from caffe2flax.training.data import data_notes, data_shapes, data_source
from caffe2flax.training.graphs import NetState
from caffe2flax.training.module import TrainingConversion, convert_training
from caffe2flax.training.nets import (
    PathLike,
    absolute,
    arrays_only,
    file_of,
    phases_of,
    state_of,
)
from caffe2flax.training.optimizer import optimizer_source
from caffe2flax.training.parameter import SolverNet
from caffe2flax.training.places import places
from caffe2flax.training.rates import learning_rate_source
from caffe2flax.training.script import Script, TestNet
from caffe2flax.training.snapshots import FIELDS
from caffe2flax.training.solver import Solver, read_solver
from caffe2flax.training.table import blobs_source
from caffe2flax.weights.safetensors import write_safetensors


@dataclass(frozen=True, slots=True)
class Prepared:
    """The files of a training run.

    folder: for all of them. scripts: the texts of the program, by file name.
    """

    conversion: TrainingConversion
    folder: Path
    scripts: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())

    @property
    def stem(self) -> str:
        """The module's name."""
        return module_stem(self.conversion.name)

    @property
    def script(self) -> Path:
        """The path of the program."""
        return self.folder.absolute() / f"{self.stem}_train.py"

    def write(self, force: bool = False) -> tuple[Path, ...]:
        """Writes all files, or none. One that is there with the same content stays;
        one that was edited is replaced with `force` only, else FileExistsError."""
        folder = self.folder
        texts = {
            folder / f"{self.stem}.py": self.conversion.source,
            **{folder / name: text for name, text in self.scripts.items()},
        }
        targets: dict[Path, Write] = {
            path: _writer(text) for path, text in texts.items() if _differs(path, text)
        }
        edited = any(path.exists() for path in targets)
        weights = self.conversion.weights
        if weights is not None:
            held = folder / f"{self.stem}.safetensors"
            targets[held] = lambda stream: write_safetensors(stream, weights, None)
        write_all(targets, force or not edited)
        return tuple(targets)


def prepare(
    solver: PathOrText,
    *,
    net: PathLike | None = None,
    name: str | None = None,
    weights: Weights | None = None,
    settings: Mapping[str, object] | None = None,
    freeze: Sequence[str] | str = (),
    data: PathLike | None = None,
    test_data: PathLike | None = None,
    shuffle: bool = False,
    directory: PathLike | None = None,
) -> Prepared:
    """Reads a solver and its net, and makes the module and the script.

    Arguments: see `caffe2flax train --help`; directory: for the files. Opens what the
    solver and the net name: the net, weights, and the first record of each source.
    Raises ConversionError.
    """
    read = read_solver(solver)
    folder = Path(read.file).absolute().parent if read.file else Path.cwd()
    nets = [read.training_net, *read.test_nets]
    states = [state_of(each, net, folder) for each in nets]
    for_tests = test_data or arrays_only(data)
    given = [absolute(data), *([absolute(for_tests)] * len(read.test_nets))]
    shapes = _shapes(states, nets, given, folder)
    made = convert_training(
        states[0],
        states[1:],
        weights or [file_of(path, folder, "--weights") for path in read.weight_files],
        name=name,
        input_shapes=shapes,
    )
    notes = list(made.notes)
    for state, each in zip(states, nets, strict=True):
        of, phase = state.source, each.phase
        notes += data_notes(of, phase, level=state.level, stages=state.stages)
    settings = dict(settings or {})
    resized = _resized(made, settings)
    trained = _with_frozen(made, one_or_more(freeze))
    blobs, saved = "", True
    try:
        blobs = blobs_source(made, resized)
    except ConversionError as error:
        saved = False
        text = "no snapshots in Caffe's formats are written"
        notes += [f"{text}: {problem}" for problem in error.problems]
    stem = module_stem(made.name)
    prefix = Path(read.snapshot_prefix or stem)
    written = prefix.parent if directory is None else Path(directory)
    tests = made.tests[: len(read.test_nets)]  # without one the net itself is there
    methods = [(made.graph, made.arguments), *((g, g.arguments) for g in tests)]
    batches = [
        data_source(
            state.source,
            phase,
            source,
            name=f"{what}_batches",
            level=state.level,
            stages=state.stages,
            axes={v.blob: graph.layouts[v].axes for v in arguments},
            blobs=[v.blob for v in arguments],
            folder=folder,
            input_shapes=shapes,
            script=written,
        )
        for state, (graph, arguments), source, (phase, what) in zip(
            states, methods, given, phases_of(len(nets)), strict=True
        )
    ]
    script = Script(
        name=made.name,
        stem=stem,
        summary=f"Trains {made.name} as {_title(read)} says.",
        version=VERSION,
        solver=read,
        prefix=prefix.name,
        model=_model(made, settings),
        rate=learning_rate_source(read),
        optimizer=optimizer_source(read, trained),
        batches=batches,
        blobs=blobs if saved else "",
        fields=FIELDS[read.type],
        weights=_loss_weights(made.graph),
        inputs=[v.blob for v in made.arguments],
        hidden=_hidden(made.graph),
        tests=[
            TestNet([v.blob for v in graph.arguments], _loss_weights(graph))
            for graph in tests
        ],
        shuffle=shuffle,
    )
    every = (*read.notes, *dict.fromkeys(notes))
    return Prepared(made, written, script.sources(), every)


def _title(solver: Solver) -> str:
    return Path(solver.file).name if solver.file else "its solver"


def _shapes(
    states: Sequence[NetState],
    nets: Sequence[SolverNet],
    given: Sequence[PathLike | None],
    folder: Path,
) -> dict[str, Shape]:
    """The shapes of the inputs, those of the first net that has each."""
    found: dict[str, Shape] = {}
    for state, net, source in zip(states, nets, given, strict=True):
        shapes = data_shapes(
            state.source,
            net.phase,
            source,
            level=state.level,
            stages=state.stages,
            folder=folder,
        )
        found = {**shapes, **found}
    return found


def _resized(
    made: TrainingConversion, settings: Mapping[str, object]
) -> dict[str, Shape] | None:
    """The shapes of the variables under other arguments of the class. Raises
    ConversionError for those that it lacks."""
    if not settings:
        return None
    import inspect

    from flax import nnx

    from caffe2flax.runner import load_class

    made_class = load_class(made.name, made.source)
    # That of the class itself is nnx's: (*args, **kwargs).
    made_by: Any = made_class
    known = {*inspect.signature(made_by.__init__).parameters} - {"self", "rngs"}
    problems = [
        Problem(f"the module has no argument {key!r}{closest(key, known)}")
        for key in settings
        if key not in known
    ]
    if problems:
        raise ConversionError(problems)
    model = nnx.eval_shape(lambda: made_class(**settings, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in flat}


def _model(made: TrainingConversion, settings: Mapping[str, object]) -> str:
    """The expression that makes the model."""
    given = [f"{key}={literal(value)}" for key, value in settings.items()]
    if made.weights is not None:
        return f"{made.name}.from_pretrained({', '.join(given)})"
    return f"{made.name}({', '.join([*given, 'rngs=nnx.Rngs(SEED)'])})"


def _with_frozen(
    made: TrainingConversion, patterns: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The multipliers, 0 for the layers of these patterns, and for layers that only
    tests have. Raises ConversionError for a pattern that no layer fits."""
    found = dict(multipliers(made))
    layers = {b.variable: b.layer for b in learnable_blobs(made) if b.variable}
    problems = []
    for pattern in patterns:
        frozen = [
            path
            for path in found
            if fnmatchcase(layers.get(path, ""), pattern)
            or fnmatchcase(path.rpartition(".")[0], pattern)
            or fnmatchcase(path, pattern)
        ]
        if not frozen:
            hint = closest(pattern, set(layers.values()))
            problems.append(Problem(f"--freeze {pattern}: no layer fits{hint}"))
        found |= dict.fromkeys(frozen, (0.0, 0.0))
    if problems:
        raise ConversionError(problems)
    return found | dict.fromkeys(_tested_only(made), (0.0, 0.0))


def _tested_only(made: TrainingConversion) -> list[str]:
    """The variables of layers that the net in TRAIN lacks."""
    trained = {node.number for node in made.graph.nodes}
    nodes = (node for test in made.tests for node in test.nodes)
    only = tuple(node for node in nodes if node.number not in trained)
    return list(places(replace(made, graph=replace(made.graph, nodes=only))))


def _hidden(graph: Graph) -> list[str]:
    """The blobs that count in the loss and are no outputs of Caffe's net, as a layer
    reads them."""
    nodes = (*graph.nodes, *(dropped.node for dropped in graph.remarks.dropped))
    read = {value for node in nodes for value in node.inputs}
    return [v.blob for v in graph.outputs if v in read]


def _loss_weights(graph: Graph) -> dict[str, float]:
    return {v.blob: w for node in graph.nodes for v, w in node.weighted}


def _writer(text: str) -> Write:
    return lambda stream: stream.write(text.encode())


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() != text.encode()
    except OSError:
        return True
