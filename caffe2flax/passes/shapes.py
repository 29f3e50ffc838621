"""Shapes of all blobs, and the weight blobs that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

from caffe2flax.errors import ConversionError, Problem, UnknownShape, unsupported
from caffe2flax.ir.abilities import (
    DataDependentShape,
    NotConverted,
    Source,
)
from caffe2flax.ir.graph import Graph, Node, Sizes, Value
from caffe2flax.ir.layout import BATCH_SCALE, Shape
from caffe2flax.limits import current
from caffe2flax.passes.assumption import (
    Unknown,
    assume,
    assumption_notes,
    refit_labels,
)
from caffe2flax.passes.walk import Shapes, check_size, problems_of_layer, walk


def infer_shapes(graph: Graph) -> Graph:
    """Gives every value its shape and every node its weight blobs; a shared blob is
    that of the layer that names it first.

    Before: conv1 = Convolution(data)
    After:  conv1 (1, 96, 55, 55) = Convolution(data (1, 3, 227, 227)),
            weights (96, 3, 11, 11) and (96,)

    All shapes are computed a second time with a larger batch: the extents that change
    depend on the batch. Raises ConversionError with the problems of all layers.
    """
    problems: list[Problem] = []
    shapes, unknown = _sources(graph, problems)
    guess = assume(graph, shapes, unknown) if unknown and not problems else {}
    shapes |= guess
    problems += [p for u in unknown if u.value not in shapes for p in u.problems]
    notes = tuple(assumption_notes(graph, unknown, guess))
    certain = not problems
    nodes = walk(graph, shapes, problems)
    if problems and certain:
        labels, more = refit_labels(graph, shapes)
        if labels:
            shapes = {v: s for v, s in shapes.items() if v in graph.arguments}
            shapes |= labels
            guess, notes, problems = {**guess, **labels}, (*notes, *more), []
            nodes = walk(graph, shapes, problems)
    if not problems:
        _compare_dropped(graph, shapes, problems)
    if problems:
        raise ConversionError(problems)
    _check_activations(shapes)
    done = replace(graph, nodes=tuple(nodes))
    sizes = Sizes(shapes, _larger_batch(done, shapes), frozenset(guess))
    return replace(done, sizes=sizes).with_notes(*notes)


def _sources(graph: Graph, problems: list[Problem]) -> tuple[Shapes, list[Unknown]]:
    """The shapes of the inputs, and the inputs whose shape only the data has."""
    shapes: Shapes = {}
    unknown: list[Unknown] = []
    unread = graph.unread
    for node in graph.inputs:
        for i, value in enumerate(node.outputs):
            if value in unread:
                continue
            try:
                shapes[value] = _input_shape(graph, node, i, value.blob)
            except UnknownShape as error:
                if min(error.known, default=0) < 0:
                    text = f"blob {value.blob!r} cannot have the shape {error.known}"
                    problems.append(Problem(text, node.span))
                    continue
                unknown.append(Unknown(value, node, i, error))
                continue
            except ConversionError as error:
                problems += node.fail(error).problems
                continue
            check_size(value, shapes[value], node, problems)
    return shapes, unknown


def _input_shape(graph: Graph, node: Node, top: int, blob: str) -> Shape:
    given = graph.caller_shapes
    if blob in given.input_shapes:
        return given.input_shapes[blob]
    source = node.layer
    assert isinstance(source, Source), f"{node.name} is no source"
    try:
        return source.top_shape(top)
    except ConversionError:
        if blob not in given.array_shapes:
            raise
        return given.array_shapes[blob]


def _check_activations(shapes: Shapes) -> None:
    limits = current()
    needed = 4 * sum(map(prod, shapes.values()))
    if needed > limits.activation_bytes:
        text = f"the blobs of the net take {needed} bytes"
        raise unsupported(limits.refusal("activation_bytes", text))


def _compare_dropped(graph: Graph, shapes: Shapes, problems: list[Problem]) -> None:
    """What a loss that is left out says of the shapes that it would read."""
    for node in (dropped.node for dropped in graph.remarks.dropped):
        if not isinstance(node.layer, NotConverted):
            continue
        try:
            node.layer.compare(*map(shapes.get, node.inputs))
        except ConversionError as error:
            problems += problems_of_layer(node, error)


def _larger_batch(graph: Graph, shapes: Mapping[Value, Shape]) -> Shapes:
    """Shapes under a larger batch, for the largest set of inputs that can be scaled
    together."""
    inputs = graph.arguments
    arguments = [value for value in inputs if shapes[value]]
    if not arguments:
        return dict(shapes)
    first = arguments[0]
    extent = shapes[first][0]
    choices: list[Callable[[Value], bool]] = [
        lambda value: True,
        lambda value: shapes[value][0] == extent,
        lambda value: value == first,
    ]
    if graph.dynamic:
        choices.append(lambda value: False)
    for chosen in choices:
        scaled = {value: shapes[value] for value in inputs}
        for value in filter(chosen, arguments):
            leading, *rest = shapes[value]
            scaled[value] = (leading * BATCH_SCALE, *rest)
        try:
            return propagate(graph, shapes, scaled)
        except ConversionError:
            continue
    return dict(shapes)


def propagate(graph: Graph, shapes: Mapping[Value, Shape], scaled: Shapes) -> Shapes:
    """Fills `scaled`. Raises ConversionError where a layer does, or where the batch
    would change the shape of a weight."""
    for node in graph.nodes:
        inputs = [scaled[value] for value in node.inputs]
        outputs = node.layer.infer(*inputs)
        ranks = [len(shapes[value]) for value in node.outputs]
        if [len(shape) for shape in outputs] != ranks:
            raise ConversionError("axes cannot follow the batch")
        if isinstance(node.layer, DataDependentShape):
            leading = (shapes[value][0] * BATCH_SCALE for value in node.outputs)
            outputs = tuple(
                (extent, *shape[1:])
                for extent, shape in zip(leading, outputs, strict=True)
            )
        usual = node.layer.blobs(*(shapes[value] for value in node.inputs))
        if node.layer.blobs(*inputs) != usual:
            raise ConversionError("weights cannot follow the batch")
        scaled.update(zip(node.outputs, outputs, strict=True))
    return scaled
