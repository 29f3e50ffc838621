"""The graphs of a net: in training, in tests, and as deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from caffe2flax.conversion import read_graph, shapes_in
from caffe2flax.errors import ConversionError, Problem, UnknownShape, closest
from caffe2flax.frontend.caffemodel import WeightFile
from caffe2flax.frontend.source import NetSource
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.graph import Graph, Node
from caffe2flax.ir.layout import Shape
from caffe2flax.options import NetOptions
from caffe2flax.passes import PASSES, Pass, run_passes
from caffe2flax.passes.batchnorm import fold_batchnorm
from caffe2flax.passes.layout import assign_layouts
from caffe2flax.passes.phases import folded_alike, number_alike, share_weights
from caffe2flax.passes.shapes import infer_shapes
from caffe2flax.passes.unused import drop_unused, keep_metrics

TRAIN, TEST = "TRAIN", "TEST"


@dataclass(frozen=True, slots=True)
class NetState:
    """A net, a path or the text itself, and what chooses among its layers."""

    source: NetSource
    level: int = 0
    stages: tuple[str, ...] = ()


def graphs_of(
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
        _read(state, phase, {**options, "input_shapes": None}, files)
        for state, phase in states
    ]
    if given:
        _check_shapes(given, read)
        shapes = [_own_batch(graph, given) for graph in read]
        read = [
            _read(state, phase, {**options, "input_shapes": own}, files)
            for (state, phase), own in zip(states, shapes, strict=True)
        ]
    return [replace(graph, name=read[0].name) for graph in read]


def _together(read: Sequence[Graph]) -> list[Graph]:
    """The graphs of `_graphs` from the nets before all passes."""
    numbered = number_alike(read)
    graphs = _passed(numbered, PASSES)
    if not folded_alike(graphs):
        graphs = _passed(numbered, [p for p in PASSES if p is not fold_batchnorm])
    first, *others = graphs
    return [first, *(share_weights(first, other) for other in others)]


def _read(
    state: NetState, phase: str, options: NetOptions, files: Sequence[WeightFile]
) -> Graph:
    """A net before all passes."""
    own: NetOptions = {
        **options,
        "phase": phase,
        "level": state.level,
        "stages": state.stages,
    }
    shapes = shapes_in(files)
    return read_graph(state.source, weight_shapes=shapes, passes=(), **own)


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
