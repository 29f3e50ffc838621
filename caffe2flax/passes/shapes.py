"""Shapes of all blobs, and the weight blobs that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from caffe2flax.errors import ConversionError, Problem, UnknownShape, unsupported
from caffe2flax.ir.abilities import (
    DataDependentShape,
    NotConverted,
    Source,
    WritesMethod,
)
from caffe2flax.ir.graph import Graph, Node, ParamSpec, Sizes, Value, Weight
from caffe2flax.ir.layer import Blob
from caffe2flax.ir.layout import BATCH_SCALE, Shape
from caffe2flax.limits import current
from caffe2flax.passes.assumption import Unknown, assumption_notes, guesses, weights_fit

Shapes = dict[Value, Shape]

MAX_ELEMENTS = 2**31 - 1
"""Caffe counts the elements of a blob in a C++ int."""

MAX_AXES = 32
"""Caffe's kMaxBlobAxes."""


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
    guess = _guess(graph, shapes, unknown) if unknown and not problems else {}
    shapes |= guess
    problems += [p for u in unknown if u.value not in shapes for p in u.problems]
    nodes = _walk(graph, shapes, problems)
    if not problems:
        _compare_dropped(graph, shapes, problems)
    if problems:
        raise ConversionError(problems)
    _check_activations(shapes)
    done = replace(graph, nodes=tuple(nodes))
    sizes = Sizes(shapes, _larger_batch(done, shapes), frozenset(guess))
    notes = assumption_notes(graph, unknown, guess) if guess else ()
    return replace(done, sizes=sizes).with_notes(*notes)


def _guess(
    graph: Graph, shapes: Shapes, unknown: list[Unknown]
) -> Mapping[Value, Shape]:
    """Usual shapes for the inputs of unknown size; none where none suits the net."""
    for guess in guesses(graph, unknown, shapes.values()):
        problems: list[Problem] = []
        nodes = _walk(graph, {**shapes, **guess}, problems)
        if not problems and weights_fit(nodes, graph.caller_shapes.weight_shapes):
            return guess
    return {}


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
            _check_size(value, shapes[value], node, problems)
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


def _check_size(
    value: Value, shape: Shape, node: Node, problems: list[Problem]
) -> None:
    if len(shape) > MAX_AXES:
        text = f"blob {value.blob!r} has {len(shape)} axes; Caffe allows {MAX_AXES}"
        problems.append(Problem(text, node.span))
    elif min(shape, default=1) < 1 or prod(shape) > MAX_ELEMENTS:
        text = f"blob {value.blob!r} of shape {shape} is empty or exceeds 2^31 elements"
        problems.append(Problem(text, node.span))


def _check_activations(shapes: Shapes) -> None:
    limits = current()
    needed = 4 * sum(map(prod, shapes.values()))
    if needed > limits.activation_bytes:
        text = f"the blobs of the net take {needed} bytes"
        raise unsupported(limits.refusal("activation_bytes", text))


def _walk(graph: Graph, shapes: Shapes, problems: list[Problem]) -> list[Node]:
    """Fills `shapes`. A node without the shapes of all its inputs is skipped: the
    problem is that of an earlier node."""
    owners = _Owners()
    nodes = []
    for node in graph.nodes:
        known = [shapes.get(value) for value in node.inputs]
        inputs = [shape for shape in known if shape is not None]
        if len(inputs) < len(known):
            continue
        try:
            outputs = _made(node, inputs)
            weights = owners.resolve(node, _checked(node.layer.blobs(*inputs)))
        except ConversionError as error:
            problems += problems_of_layer(node, error)
            continue
        for value, shape in zip(node.outputs, outputs, strict=True):
            shapes[value] = shape
            _check_size(value, shape, node, problems)
        nodes.append(replace(node, weights=weights))
    return nodes


def _compare_dropped(graph: Graph, shapes: Shapes, problems: list[Problem]) -> None:
    """What a loss that is left out says of the shapes that it would read."""
    for node in (dropped.node for dropped in graph.remarks.dropped):
        if not isinstance(node.layer, NotConverted):
            continue
        try:
            node.layer.compare(*map(shapes.get, node.inputs))
        except ConversionError as error:
            problems += problems_of_layer(node, error)


def problems_of_layer(node: Node, error: ConversionError) -> list[Problem]:
    """The problems of `error`, each with the name and the place of the layer."""
    name = f"layer {node.name!r}: "
    return [replace(p, message=name + p.message) for p in node.fail(error).problems]


def _made(node: Node, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
    """The shapes of the tops, one for each. Raises ConversionError."""
    outputs = node.layer.infer(*inputs)
    if len(outputs) != len(node.outputs):
        has = len(node.outputs)
        raise ConversionError(f"makes {len(outputs)} top blobs, not {has}")
    return outputs


def _checked(blobs: tuple[Blob, ...]) -> tuple[Blob, ...]:
    """`blobs`, each checked against Caffe's largest size. Raises ConversionError."""
    for i, blob in enumerate(blobs):
        if prod(blob.shape) > MAX_ELEMENTS:
            text = f"weight blob {i} of shape {blob.shape} exceeds 2^31 elements"
            raise ConversionError(text)
    return blobs


@dataclass(slots=True)
class _Owners:
    """Named parameters, each owned by the layer that names it first."""

    named: dict[str, Weight] = field(default_factory=dict)
    factors: dict[tuple[str, str], float] = field(default_factory=dict)

    def resolve(self, node: Node, blobs: tuple[Blob, ...]) -> tuple[Weight, ...]:
        """The node's weights; a shared one is its owner's. Raises ConversionError."""
        if isinstance(node.layer, WritesMethod):
            return ()  # its weight blobs are unknown
        if len(node.specs) > len(blobs):
            raise ConversionError(
                f"{len(node.specs)} param messages for {len(blobs)} weight blobs"
            )
        specs = (*node.specs, *(None,) * (len(blobs) - len(node.specs)))
        weights = []
        for i, (blob, share) in enumerate(zip(blobs, specs, strict=True)):
            own = Weight(node.name, i, blob.shape, blob.filler, node.number)
            if share is None or not share.name:
                weights.append(own)
                continue
            owner = self.named.setdefault(share.name, own)
            fits = (
                prod(owner.shape) == prod(blob.shape)
                if share.permissive
                else owner.shape == blob.shape
            )
            if not fits:
                text = (
                    f"cannot share param {share.name!r} of layer {owner.layer!r}: its "
                    f"shape is {owner.shape}, not {blob.shape}"
                )
                raise ConversionError(Problem(text, share.span))
            self._check_multipliers(share)
            weights.append(replace(owner, shape=blob.shape))
        return tuple(weights)

    def _check_multipliers(self, share: ParamSpec) -> None:
        """Checks that a shared parameter has one lr_mult and one decay_mult. Raises
        ConversionError."""
        for what in ("lr_mult", "decay_mult"):
            given = getattr(share, what)
            if given is None:
                continue
            first = self.factors.setdefault((share.name, what), given)
            if first != given:
                text = f"param {share.name!r} has {what} {first} elsewhere, not {given}"
                raise ConversionError(Problem(text, share.span))


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
