"""Graph -> Program: the operations of all layers, under Caffe's blob names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.exports.onnx import (
    activation,
    affine,
    forks,
    parts,
    shape,
    statistics,
    window,
)
from caffe2flax.exports.onnx.program import Operation, Place, Program
from caffe2flax.exports.onnx.table import TABLE, writes
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Shape
from caffe2flax.passes.layout import Relayout
from caffe2flax.weights.matching import Blobs

FAMILIES = (activation, affine, forks, parts, shape, statistics, window)
"""The files that fill the table."""

Shapes = Mapping[Value, Shape]


class Port(NamedTuple):
    """An input or output of a model: its name, its blob in Caffe, its extents, a text
    for each that may vary."""

    name: str
    value: Value
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """A net as ONNX operations. names: the ONNX value of each blob."""

    program: Program
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    names: Mapping[Value, str]
    dynamic: bool
    """Whether it takes any batch."""


@writes(Relayout)
def relayout(at: Place, layer: Relayout) -> str:
    """In Caffe's axis order nothing moves."""
    return at.x


def translate(graph: Graph, blobs: Blobs, *, dynamic: bool | None) -> Translation:
    """The net as ONNX operations in Caffe's axis order.

    dynamic: whether it takes any batch; None where the layers decide. Raises
    ConversionError with all layers that ONNX cannot say exactly, and where the layers
    do not take any batch but it is asked for.
    """
    shapes, larger = graph.shapes, graph.sizes.larger_batch
    program, names = _write(graph, blobs, shapes, shapes)
    if dynamic is False and not graph.dynamic:
        return _named(graph, program, names, shapes, shapes)
    try:
        # For two batches the operations are the same, or depend on the batch.
        program, names = _write(graph, blobs, shapes, larger)
        other, _ = _write(graph, blobs, larger, shapes)
        reason = _difference(graph, program, other)
    except ConversionError as error:
        reason = str(error)
    if reason and (dynamic or graph.dynamic):
        text = f"it takes no other batch than the file's: {reason}"
        raise ConversionError(f"{text}; give --batch N for one batch")
    if reason:
        program, names = _write(graph, blobs, shapes, shapes)
        return _named(graph, program, names, shapes, shapes)
    inputs_other = shapes if dynamic is False else larger
    return _named(graph, program, names, inputs_other, larger)


def _write(
    graph: Graph, blobs: Blobs, shapes: Shapes, others: Shapes
) -> tuple[Program, dict[Value, str]]:
    """The operations for blobs of `shapes`, and the name of each value. Where `others`,
    the shapes under another batch, differ, the operations take any. Raises
    ConversionError with all layers that have none."""
    program = Program({*graph.blobs, *(value.blob for value in graph.arguments)})
    names = {value: program.claim(value.blob) for value in graph.arguments}
    problems: list[Problem] = []
    for node in graph.nodes:
        place = Place(
            program,
            node,
            tuple(names[v] for v in node.inputs),
            tuple(shapes[v] for v in node.inputs),
            tuple(shapes[v] for v in node.outputs),
            tuple(others[v] for v in node.outputs),
            tuple(blobs[w.owner, w.index] for w in node.weights),
            graph.phase == "TRAIN",
        )
        try:
            made = _called(place, node)
        except ConversionError as error:
            problems += [p.of("unsupported") for p in node.fail(error).problems]
            made = [f"{node.name}/{i}" for i in range(len(node.outputs))]
        names.update(zip(node.outputs, made, strict=True))
    if problems:
        raise ConversionError(problems)
    return program, names


def _called(place: Place, node: Node) -> Sequence[str]:
    """The tops of a layer. Raises ConversionError that names the layer."""
    write, kind = TABLE.get(type(node.layer)), node.type or node.layer.type
    if write is None:
        text = "has no counterpart in ONNX that computes the same"
        raise ConversionError(f"{kind} layer {node.name!r} {text}")
    try:
        made = write(place, node.layer)
    except ConversionError as error:
        raise ConversionError(
            replace(problem, message=f"{kind} layer {node.name!r}: {problem.message}")
            for problem in error.problems
        ) from error
    return [made] if isinstance(made, str) else made


def _difference(graph: Graph, program: Program, other: Program) -> str:
    """Which operation depends on the batch; "" where none does."""
    if all(graph.sizes.larger_batch[v] == graph.shapes[v] for v in graph.arguments):
        return "the net fixes it"
    pairs = zip(program.operations, other.operations, strict=False)
    for one, two in pairs:
        given = [n for n in one.inputs if not _same(n, program, other)]
        if one != two or given:
            return f"{one.name} depends on the batch"
    if len(program.operations) != len(other.operations):
        return "the number of operations depends on the batch"
    return ""


def _same(name: str, program: Program, other: Program) -> bool:
    """Whether both have the same tensor of this name, or none."""
    one, two = program.tensors.get(name), other.tensors.get(name)
    if one is None or two is None:
        return one is two
    weights = name in program.weights.values()
    return weights or (
        one.shape == two.shape and np.array_equal(one, two, equal_nan=True)
    )


def _named(
    graph: Graph,
    program: Program,
    names: Mapping[Value, str],
    inputs_other: Shapes,
    outputs_other: Shapes,
) -> Translation:
    """The program under Caffe's blob names. Of a blob that layers change in place the
    last version has the name; where a blob is another one, as after Dropout, the first
    of the two has it, and an output is copied by an Identity."""
    last = {value: blob for blob, value in graph.blobs.items()}
    holders = {names[v]: v.blob for v in graph.arguments}
    renamed: dict[str, str] = {}
    for value in (v for node in graph.nodes for v in node.outputs):
        inner = names[value]
        if value in last and inner not in {*renamed, *holders, *program.tensors}:
            renamed[inner] = program.claim(last[value])
            holders[renamed[inner]] = last[value]
    program.rename(renamed)
    found = {value: renamed.get(name, name) for value, name in names.items()}
    arguments = {found[v] for v in graph.arguments}
    for value in graph.outputs:
        name = found[value]
        if holders.get(name) != value.blob or name in arguments:
            found[value] = program.claim(value.blob)
            copy = Operation("Identity", (name,), (found[value],), found[value], {})
            program.operations.append(copy)
            holders[found[value]] = value.blob
    batch = graph.shapes[graph.arguments[0]][:1] if graph.arguments else ()
    return Translation(
        program,
        tuple(
            Port(found[v], v, _dims(v, graph.shapes[v], inputs_other[v], batch))
            for v in graph.arguments
        ),
        tuple(
            Port(found[v], v, _dims(v, graph.shapes[v], outputs_other[v], batch))
            for v in graph.outputs
        ),
        found,
        inputs_other is not graph.shapes,
    )


def _dims(
    value: Value, shape: Shape, other: Shape, batch: Shape
) -> tuple[int | str, ...]:
    """The extents of a blob, with a name for each that may vary: N for the batch."""
    return tuple(
        extent
        if extent == changed
        else ("N" if batch == (extent,) else f"{value.blob}_{axis}")
        for axis, (extent, changed) in enumerate(zip(shape, other, strict=True))
    )
