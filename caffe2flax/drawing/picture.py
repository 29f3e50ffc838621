"""Graph -> picture: boxes and arrows, not laid out yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.passes import PASSES, Pass
from caffe2flax.passes.batchnorm import fold_batchnorm
from caffe2flax.passes.blocks import find_blocks
from caffe2flax.passes.layout import assign_layouts
from caffe2flax.passes.padding import reconcile_padding

_EMITTING = (fold_batchnorm, reconcile_padding, assign_layouts)
DRAWN: tuple[Pass, ...] = tuple(step for step in PASSES if step not in _EMITTING)
"""The passes before a picture: those that neither fold nor add layers."""

KINDS: Mapping[str, str] = {
    "convolution": "convolution",
    "deconvolution": "convolution",
    "dense": "dense",
    "recurrent": "dense",
    "forks.lstm": "dense",
    "pooling": "pooling",
    "spp": "pooling",
    "forks.regions": "pooling",
    "forks.unpool": "pooling",
    "forks.resize": "pooling",
    "activation": "activation",
    "forks.activation": "activation",
    "power": "activation",
    "dropout": "activation",
    "batchnorm": "normalization",
    "bias": "normalization",
    "forks.bn": "normalization",
    "forks.broadcast": "normalization",
    "forks.affine": "normalization",
    "lrn": "normalization",
    "normalization": "normalization",
    "combine": "combination",
    "accuracy": "loss",
    "loss": "loss",
    "loss_pairs": "loss",
    "forks.ssd_training": "loss",
    "data": "data",
    "generated": "data",
}
"""The kind of a layer by the file of its class; the others move or select data."""

OWN_KIND: Mapping[str, str] = {"Softmax": "loss", "Normalize": "normalization"}
"""Types of another kind than the file of their class."""


class Part(NamedTuple):
    """A layer in a box: the first computes the blob, the others change it in place."""

    name: str
    type: str
    caption: str
    kind: str


@dataclass(frozen=True, slots=True)
class Box:
    """The layers of a blob, or an input or output of the net (`end`) without layers."""

    name: str
    kind: str
    parts: tuple[Part, ...] = ()
    block: str = ""
    end: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """From one box to another, by number. shape: like `96x55x55`, in Caffe's axis
    order."""

    tail: int
    head: int
    blob: str
    shape: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes in an order in which each is before those that read from it."""

    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    def as_json(self) -> dict[str, object]:
        """The picture as lists and dicts, boxes by their number."""
        boxes = []
        for number, box in enumerate(self.boxes):
            layers = [part._asdict() for part in box.parts]
            role = ("output" if box.kind == "output" else "input") if box.end else "box"
            boxes.append(
                {
                    "number": number,
                    "name": box.name,
                    "role": role,
                    "kind": box.kind,
                    "block": box.block or None,
                    "layers": layers,
                }
            )
        arrows = [
            {"tail": a.tail, "head": a.head, "blob": a.blob, "shape": a.shape}
            for a in self.arrows
        ]
        return {"name": self.name, "boxes": boxes, "arrows": arrows}


def picture(graph: Graph) -> Picture:
    """The picture of a graph, best after the passes `DRAWN`: what further passes add to
    the layers of the net is left out."""
    return _Painter(_of_the_net(graph)).picture()


def _of_the_net(graph: Graph) -> Graph:
    """The graph without nodes that are no layers of the net."""
    added = [node for node in graph.nodes if node.number < 0]
    if not added:
        return graph
    before: dict[Value, Value] = {}
    for node in added:
        (x,) = node.inputs
        before[node.outputs[0]] = before.get(x, x)

    def own(values: Iterable[Value]) -> tuple[Value, ...]:
        return tuple(before.get(value, value) for value in values)

    nodes = (replace(n, inputs=own(n.inputs)) for n in graph.nodes if n.number >= 0)
    outputs, taps = own(graph.outputs), own(graph.taps)
    return replace(graph, nodes=tuple(nodes), outputs=outputs, taps=taps)


def kind_of(node: Node) -> str:
    """The kind of a layer, which decides its colour; "shape" for one that moves or
    selects data."""
    cls = type(node.layer)
    _, own, family = cls.__module__.partition("caffe2flax.layers.")
    if not own:
        return "other"
    return OWN_KIND.get(cls.type) or KINDS.get(family, "shape")


class _Painter:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.boxes: list[Box] = []
        self.parts: list[list[Part]] = []
        self.arrows: list[Arrow] = []
        self.places: dict[Value, int] = {}
        """The box that computes each value."""
        self.blocks = {
            number: (block.name, name)
            for block in find_blocks(graph)
            for number, name in zip(block.nodes, block.names, strict=True)
        }
        """The block of each layer, and the layer's name in it."""
        self.outputs = frozenset(graph.outputs)
        self.readers = graph.readers()

    def picture(self) -> Picture:
        sources = {v: node for node in self.graph.inputs for v in node.outputs}
        arguments = set(self.graph.arguments)
        for node in self.graph.nodes:
            # Inputs are right before their first reader, to keep arrows short.
            for value in node.inputs:
                if value in arguments and value not in self.places:
                    self._input(value, sources[value])
            self._layer(node)
            for value in node.outputs:
                if value in self.outputs:
                    self._output(value)
        for value in self.graph.arguments:
            if value not in self.places:
                self._input(value, sources[value])
            if value in self.outputs:
                self._output(value)
        boxes = (
            Box(box.name, box.kind, tuple(parts), box.block, box.end)
            for box, parts in zip(self.boxes, self.parts, strict=True)
        )
        return Picture(self.graph.name, tuple(boxes), tuple(self.arrows))

    def _add(self, box: Box, values: Iterable[Value]) -> int:
        number = len(self.boxes)
        self.boxes.append(box)
        self.parts.append([])
        self.places.update((value, number) for value in values)
        return number

    def _input(self, value: Value, node: Node) -> None:
        self._add(Box(value.blob, kind_of(node), end=True), [value])

    def _output(self, value: Value) -> None:
        tail = self.places[value]
        head = self._add(Box(value.blob, "output", end=True), ())
        self._arrow(tail, head, value)

    def _layer(self, node: Node) -> None:
        parts = [self._part(layer, node) for layer in node.layers]
        if self._folds(node):
            place = self.places[node.inputs[0]]
            self.parts[place] += parts
            self.places[node.outputs[0]] = place
            return
        block, name = self.blocks.get(node.number, ("", ""))
        box = Box(name or node.name, kind_of(node), block=block)
        number = self._add(box, node.outputs)
        self.parts[number] += parts
        for value in node.inputs:
            self._arrow(self.places[value], number, value)

    def _part(self, layer: Node, node: Node) -> Part:
        """A layer that `node` computes."""
        shapes = [self.graph.shapes[value] for value in node.inputs]
        # The class for one meaning of a type may have no type of its own.
        type_ = layer.layer.type or type(layer.layer).__name__
        return Part(layer.name, type_, layer.layer.caption(*shapes), kind_of(layer))

    def _folds(self, node: Node) -> bool:
        """Whether the layer works in place on a blob that nothing else reads before."""
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            return False
        (before,), (after,) = node.inputs, node.outputs
        only_reader = (
            len(self.readers[before]) == 1 and before not in self.graph.returned
        )
        computed = not self.boxes[self.places[before]].end
        return before.blob == after.blob and only_reader and computed

    def _arrow(self, tail: int, head: int, value: Value) -> None:
        parts = self.parts[tail]
        first = parts[0].name if parts else self.boxes[tail].name
        blob = "" if value.blob == first else value.blob
        self.arrows.append(Arrow(tail, head, blob, self._shape(value)))

    def _shape(self, value: Value) -> str:
        """The extents of a value, without those of the batch."""
        operand = self.graph.operand(value)
        rest = operand.shape
        if rest and operand.is_batch(0) and len(rest) > 1:
            rest = rest[1:]
        return "x".join(map(str, rest)) or "scalar"
