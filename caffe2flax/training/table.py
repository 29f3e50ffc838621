"""The table of a net's layers: which blobs Caffe's snapshots hold of each, and how a
variable of the module becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Node
from caffe2flax.ir.layout import Shape
from caffe2flax.training.blobs import LearnableBlob, learnable_blobs
from caffe2flax.training.places import Key
from caffe2flax.training.ways import Way

Entry = tuple[object, ...]
"""A blob: the path of its variable, its shape, and the further arguments of
`library.snapshots.to_blob`. For a blob that is 1 a name, its shape, None, and the
variables that are quotients by it."""
Table = tuple[tuple[str, str, tuple[Entry, ...]], ...]
"""Name, type and blobs of each layer of the net, those without blobs too."""


def blob_table(
    conversion: Conversion, shapes: Mapping[str, Shape] | None = None
) -> Table:
    """The layers of the net in its order. `shapes`: those of the variables where they
    are not as converted, as under another `num_classes`.

    Raises ConversionError for variables that are no permutation of a blob, all of them
    by name.
    """
    given = shapes or {}
    held, problems = {}, []
    for blob in learnable_blobs(conversion):
        try:
            held[blob.key] = _resized(blob, given.get(blob.variable))
        except ConversionError as error:
            problems += [problem.at(blob.span) for problem in error.problems]
    if problems:
        raise ConversionError(problems)
    return tuple(
        (
            layer.name,
            layer.type,
            tuple(
                _entry(held, (weight.owner, weight.index), weight.shape, layer.number)
                for weight in layer.weights
            ),
        )
        for layer in net_layers(conversion)
    )


def net_layers(conversion: Conversion) -> list[Node]:
    """All layers of the net, data layers and those that the module leaves out too."""
    graph = conversion.graph
    nodes = (*graph.inputs, *(part for node in graph.nodes for part in node.layers))
    every = (*nodes, *(dropped.node for dropped in graph.remarks.dropped))
    return sorted((n for n in every if n.number >= 0), key=lambda node: node.number)


def blobs_source(
    conversion: Conversion, shapes: Mapping[str, Shape] | None = None
) -> str:
    """`BLOBS = (...)`, the text of `blob_table`, a line for each layer."""
    lines = (f"    {literal(layer)}," for layer in blob_table(conversion, shapes))
    about = (
        "# Layers with their blobs: variable, Caffe's shape, transposition of the axes."
    )
    return "\n".join([about, "# fmt: off", "BLOBS = (", *lines, ")", "# fmt: on"])


def _entry(
    held: Mapping[Key, LearnableBlob], key: Key, shape: Shape, layer: int
) -> Entry:
    """`shape`: that of the blob in this layer, which may share it with others."""
    blob = held[key]
    if blob.owner != layer:
        blob = replace(blob, shape=shape)
    if blob.variable:
        return entry_of(blob)
    divided = tuple(other.variable for other in held.values() if other.divisor == key)
    return factor_name(blob), blob.shape, None, divided


def factor_name(blob: LearnableBlob) -> str:
    """A name for a blob that the module has no variable for."""
    return f"{blob.layer}/{blob.index}"


def entry_of(blob: LearnableBlob) -> Entry:
    """The entry of a blob that a variable is a transposition of."""
    assert blob.way is not None
    axes, dims = blob.way
    straight = axes == tuple(range(len(axes)))
    if dims == (blob.variable_shape,):
        rest: Entry = () if straight else (axes,)
    else:
        upwards = len(dims) == 1 and min(dims[0], default=0) > 0
        rest = () if straight and upwards else (axes, *dims)
    return blob.variable, blob.shape, *rest


def _resized(blob: LearnableBlob, shape: Sequence[int] | None) -> LearnableBlob:
    """The blob where its variable has this shape. Raises ConversionError where it is no
    permutation, or has another shape than of a layer with more or fewer outputs."""
    what = f"blob {blob.index} of layer {blob.layer!r}"
    if not blob.variable and not blob.statistic:
        raise ConversionError(f"{what} is no permutation of a variable of the module")
    old = blob.variable_shape
    if shape is None or tuple(shape) == old:
        return blob
    assert blob.way is not None
    axes, dims = blob.way
    rank = len(axes)
    first, last = axes[0] == rank - 1, axes[-1] == rank - 1
    same = len(shape) == len(old) and tuple(shape[:-1]) == old[:-1]
    if not same or {each[-1] for each in dims} != {old[-1]} or not (first or last):
        text = f"{blob.variable} has shape {tuple(shape)}, not {old}"
        raise ConversionError(Problem(text))
    width = shape[-1]
    wide = (width, *blob.shape[1:]) if first else (*blob.shape[:-1], width)
    way = Way(axes, tuple((*each[:-1], width) for each in dims))
    return replace(blob, shape=wide, variable_shape=tuple(shape), way=way)
