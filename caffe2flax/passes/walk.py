"""One walk over the nodes of a graph, which gives every value its shape and every node
its weight blobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import WritesMethod
from caffe2flax.ir.graph import Graph, Node, ParamSpec, Value, Weight
from caffe2flax.ir.layer import Blob
from caffe2flax.ir.layout import Shape

Shapes = dict[Value, Shape]

MAX_ELEMENTS = 2**31 - 1
"""Caffe counts the elements of a blob in a C++ int."""

MAX_AXES = 32
"""Caffe's kMaxBlobAxes."""


def walk(graph: Graph, shapes: Shapes, problems: list[Problem]) -> list[Node]:
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
            check_size(value, shape, node, problems)
        nodes.append(replace(node, weights=weights))
    return nodes


def check_size(value: Value, shape: Shape, node: Node, problems: list[Problem]) -> None:
    if len(shape) > MAX_AXES:
        text = f"blob {value.blob!r} has {len(shape)} axes; Caffe allows {MAX_AXES}"
        problems.append(Problem(text, node.span))
    elif min(shape, default=1) < 1 or prod(shape) > MAX_ELEMENTS:
        text = f"blob {value.blob!r} of shape {shape} is empty or exceeds 2^31 elements"
        problems.append(Problem(text, node.span))


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
