"""From a net in training, and its nets for tests, to one module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.names import module_names
from caffe2flax.codegen.training import counted, emit_training
from caffe2flax.conversion import (
    VERSION,
    Conversion,
    Weights,
    read_graph,
    shapes_in,
    weight_paths,
)
from caffe2flax.errors import ConversionError, Problem, UnknownShape, closest
from caffe2flax.frontend import caffemodel
from caffe2flax.frontend.caffemodel import WeightFile
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.source import NetSource, at_hand, origin
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Shape
from caffe2flax.options import NetOptions, check_options
from caffe2flax.passes import PASSES, Pass, run_passes
from caffe2flax.passes.batchnorm import fold_batchnorm
from caffe2flax.passes.layout import assign_layouts
from caffe2flax.passes.phases import (
    all_layers,
    folded_alike,
    number_alike,
    share_weights,
)
from caffe2flax.passes.shapes import infer_shapes
from caffe2flax.passes.unused import drop_unused, keep_metrics
from caffe2flax.weights.variables import Variables, check_fillers, collect

TRAIN, TEST = "TRAIN", "TEST"


@dataclass(frozen=True, slots=True)
class NetState:
    """A net, a path or the text itself, and what chooses among its layers."""

    source: NetSource
    level: int = 0
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingConversion(Conversion):
    """A converted net in training; `graph` is that of TRAIN.

    arguments: the blobs that `losses` takes, in its order. tests: the graphs of the
    nets for tests, whose arguments `metrics`, `metrics_1`, ... take.
    """

    arguments: tuple[Value, ...] = ()
    tests: tuple[Graph, ...] = ()


def convert_training(
    train: NetState,
    tests: Sequence[NetState] = (),
    weights: Weights | None = None,
    *,
    filled: bool = False,
    **options: Unpack[NetOptions],
) -> TrainingConversion:
    """Converts a net and its nets for tests to one class, with the methods

        __call__(...)            the first of `tests` as `convert` gives it in TEST
        losses(..., rngs=None)   what counts in the loss of `train`, by blob, unweighted
        total_loss(losses)       what Caffe minimises
        metrics(...)             the outputs of the first of `tests`, by blob
        metrics_1(...), ...      those of the others

    and with `logits` where the plain module has it. Layers of one name are one.
    Arguments are blobs, channels last where they have four axes and more; labels are of
    the shape that `input_shapes` gives, but for the batch, which each net's data layer
    gives. Without `tests`, `__call__` and `metrics` are those of `train` in TEST, or
    made of its layers in TRAIN where it is no net in TEST.

    The class draws its variables from Caffe's fillers, zeros where the file has none.
    The result's `graph` is that of `train`; its `weights` are those of the files, and
    of the fillers for layers that no file has; None without files, unless `filled`.
    Recurrent layers start from zeros in each call.
    Raises ConversionError with the problems of a net,
    where a net for tests cannot share the weights of `train`, and where nothing counts
    in the loss.
    """
    check_options(options, NetOptions)
    train, *others = (_at_hand(each) for each in (train, *tests))
    files = [caffemodel.read(path) for path in weight_paths(weights)]
    graphs = _graphs(train, others, files, options)
    first, *tested, deploy = graphs
    _check_loss(first)
    every = all_layers(first, [*tested, deploy])
    held = bool(files) or filled
    if not held:
        check_fillers(every)
    blobs, notes = collect(every, files) if held else ({}, ())
    class_name = module_names().claim(first.name)
    module = emit_training(
        first,
        tested,
        deploy,
        class_name,
        origin=origin(train.source),
        version=VERSION,
        flat=options.get("flat", False),
    )
    return TrainingConversion(
        class_name,
        format_source(module.source),
        Variables(every, module, blobs, files) if held else None,
        first,
        blobs,
        (
            *dict.fromkeys(note for graph in graphs for note in graph.remarks.notes),
            *_carried(first),
            *(note for file in files for note in file.notes),
            *notes,
        ),
        module,
        arguments=counted(first).arguments,
        tests=tuple(tested),
    )


def _at_hand(net: NetState) -> NetState:
    if isinstance(net.source, Message):
        return net
    return replace(net, source=at_hand(net.source))


def _carried(graph: Graph) -> Iterator[str]:
    """Notes on layers that start from zeros where Caffe goes on from the batch
    before."""
    for node in graph.nodes:
        if node.carried:
            text = "starts from zeros in each batch; Caffe goes on from the one before"
            text += ", unless cont is 0 at the first step"
            yield f"{node.span}: {node.name!r} {text}"


def _check_loss(graph: Graph) -> None:
    """Raises ConversionError where nothing counts in the loss of a net."""
    if any(node.weighted for node in graph.nodes):
        return
    text = "nothing counts in the loss of the net in TRAIN"
    problems = [
        Problem(f"{text}: {dropped.name!r} is left out, {dropped.reason}", dropped.span)
        for dropped in graph.remarks.dropped
        if dropped.node.weighted
    ]
    raise ConversionError(problems or text)


def _graphs(
    train: NetState,
    tests: Sequence[NetState],
    files: Sequence[WeightFile],
    options: NetOptions,
) -> list[Graph]:
    """Of `train`, of `tests`, and of the first of `tests` as it is deployed, after all
    passes."""
    if tests:
        states = [(train, TRAIN), *((test, TEST) for test in tests)]
        return _together(_read_all(states, files, options))
    try:
        return _together(_read_all([(train, TRAIN), (train, TEST)], files, options))
    except ConversionError:  # a net that has its data only in TRAIN, say
        (first,) = _read_all([(train, TRAIN)], files, options)
        return _together([first, replace(first, phase=TEST)])


def _read_all(
    states: Sequence[tuple[NetState, str]],
    files: Sequence[WeightFile],
    options: NetOptions,
) -> list[Graph]:
    """The nets in these phases before all passes."""
    given = options.get("input_shapes") or {}
    read = [
        _read(state, phase, {**options, "input_shapes": None})
        for state, phase in states
    ]
    if given:
        _check_shapes(given, read)
        shapes = [_own_batch(graph, given) for graph in read]
        read = [
            _read(state, phase, {**options, "input_shapes": own})
            for (state, phase), own in zip(states, shapes, strict=True)
        ]
    weight_shapes = shapes_in(files)
    return [
        replace(
            graph,
            name=read[0].name,
            caller_shapes=replace(graph.caller_shapes, weight_shapes=weight_shapes),
        )
        for graph in read
    ]


def _together(read: Sequence[Graph]) -> list[Graph]:
    """The graphs of `_graphs` from the nets before all passes."""
    numbered = number_alike(read)
    graphs = _passed(numbered, PASSES)
    if not folded_alike(graphs):
        graphs = _passed(numbered, [p for p in PASSES if p is not fold_batchnorm])
    first, *others = graphs
    return [first, *(share_weights(first, other) for other in others)]


def _read(state: NetState, phase: str, options: NetOptions) -> Graph:
    """A net before all passes."""
    own: NetOptions = {
        **options,
        "phase": phase,
        "level": state.level,
        "stages": state.stages,
    }
    return read_graph(state.source, passes=(), **own)


def _passed(read: Sequence[Graph], passes: Sequence[Pass]) -> list[Graph]:
    """The nets of `_graphs` after these passes; inputs of one name are alike in all."""
    train, *tests = read
    first = run_passes(train, passes)
    shapes = {v.blob: first.shapes[v] for v in first.arguments}
    layouts = {v.blob: first.layouts[v] for v in first.arguments}
    assumed = frozenset(value.blob for value in first.sizes.assumed)
    placed = partial(assign_layouts, given=layouts)
    deployed: list[Pass] = []
    for step in passes:
        deployed.append(placed if step is assign_layouts else step)
        if step is infer_shapes:
            deployed.append(partial(_assume, blobs=assumed))
    tested = [keep_metrics if p is drop_unused else p for p in deployed]
    alike = [_with_shapes(graph, shapes) for graph in tests]
    return [
        first,
        *(run_passes(graph, tested) for graph in alike),
        run_passes(alike[0], deployed),
    ]


def _with_shapes(graph: Graph, shapes: Mapping[str, Shape]) -> Graph:
    own = _own_batch(graph, shapes)
    return replace(graph, caller_shapes=replace(graph.caller_shapes, array_shapes=own))


def _assume(graph: Graph, blobs: frozenset[str]) -> Graph:
    """`graph` with the shapes of these inputs as assumed ones."""
    more = (value for value in graph.arguments if value.blob in blobs)
    assumed = graph.sizes.assumed.union(more)
    return replace(graph, sizes=replace(graph.sizes, assumed=assumed))


def _own_batch(graph: Graph, given: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """The shapes of the inputs of this net; the batch is that of its data layer."""
    shapes: dict[str, Shape] = {}
    for node in graph.inputs:
        for top, value in enumerate(node.outputs):
            if value.blob in given:
                shape = tuple(given[value.blob])
                batch = _batch(node, top)
                shapes[value.blob] = (batch, *shape[1:]) if batch and shape else shape
    return shapes


def _batch(node: Node, top: int) -> int:
    """The batch_size of a data layer; 0 where it has none."""
    source = node.layer
    if not isinstance(source, Source) or not source.training_data:
        return 0
    try:
        known = source.top_shape(top)
    except UnknownShape as error:
        known = error.known
    except ConversionError:
        return 0
    return known[0] if known else 0


def _check_shapes(given: Mapping[str, object], nets: Sequence[Graph]) -> None:
    inputs = [node for graph in nets for node in graph.inputs]
    known = {value.blob for node in inputs for value in node.outputs}
    problems = [
        Problem(f"a shape is given for {b!r}, which is no input{closest(b, known)}")
        for b in given
        if b not in known
    ]
    if problems:
        raise ConversionError(problems)
