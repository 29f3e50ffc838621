"""Arrays that layers read from files, such as an infogain matrix, as inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import ReadsFiles, Source
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Shape


@dataclass(frozen=True, slots=True)
class FileInput(Source):
    """An input of the module for the array in a file."""

    shape: Shape

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return (self.shape,)


def files_to_inputs(graph: Graph) -> Graph:
    """Turns arrays that layers read from files into inputs: no file that a net names is
    opened.

    Before: loss = InfogainLoss(fc8, label), which names "H.binaryproto"
    After:  loss = InfogainLoss(fc8, label, H.binaryproto), an input (1000, 1000)

    The input has the name of the file; layers that name the same file share it. Raises
    ConversionError where a blob has that name, or layers need different shapes.
    """
    problems: list[Problem] = []
    inputs: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if not isinstance(node.layer, ReadsFiles):
            nodes.append(node)
            continue
        named = node.layer.files(*(graph.shapes[value] for value in node.inputs))
        for file, shape in named.items():
            fresh = Node(file, FileInput(shape), (), (Value(file),), node.span, -1)
            if (
                file in graph.blobs
                or inputs.setdefault(file, fresh).layer != fresh.layer
            ):
                text = f"layer {node.name!r}: {file!r} is the name of another blob too"
                problems.append(Problem(text, node.span, "unsupported"))
        values = (Value(file) for file in named)
        nodes.append(replace(node, inputs=(*node.inputs, *values)))
    if problems:
        raise ConversionError(problems)
    shapes = {Value(file): node.layer.infer()[0] for file, node in inputs.items()}
    notes = (
        f"{node.span}: the array of the file {file!r} is an input of the module, "
        f"{shapes[Value(file)]}"
        for file, node in inputs.items()
    )
    return replace(
        graph,
        inputs=(*graph.inputs, *inputs.values()),
        nodes=tuple(nodes),
        blobs={**graph.blobs, **{value.blob: value for value in shapes}},
        sizes=graph.sizes.with_shapes(shapes, shapes),
    ).with_notes(*notes)
