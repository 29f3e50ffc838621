"""Facts about a net: layers, costs, inputs, padding, and layers that are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod

from caffe2flax.display import markup
from caffe2flax.inspection.parameters import parameters
from caffe2flax.inspection.tables import by, short, size
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Layout, Shape
from caffe2flax.ir.window import Padding
from caffe2flax.passes.padding import paddings

MOST_AXES = 32
BYTES = 4
"""Bytes of an element: Caffe's blobs are float32."""

TITLES = ("layer", "type", "output", "order", "params", "MACs", "memory")


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer of the net.

    shape: that of its first top, in Caffe's axis order. emitted: the same in the
    module, with the axes `order`. parameters: the number of elements of its own weight
    blobs. multiply_adds: for the input shapes of the net. memory: bytes of its tops, 0
    where it works in place. settings: its parameters without defaults.
    """

    name: str
    type: str
    line: int
    shape: Shape
    emitted: Shape
    order: str
    parameters: int
    multiply_adds: int
    memory: int
    settings: Mapping[str, str]

    def row(self) -> tuple[str, ...]:
        """What tables of layers show of it, a cell for each of `TITLES`."""
        return (
            self.name,
            self.type,
            by(self.shape),
            self.order,
            short(self.parameters),
            short(self.multiply_adds),
            short(self.memory),
        )


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """An input or an output. `preparation` is how Caffe prepares its images, "" where
    nothing is known."""

    name: str
    shape: Shape
    emitted: Shape
    order: str
    preparation: str = ""


@dataclass(frozen=True, slots=True)
class PaddingFacts:
    """Caffe's padding, that of "SAME", the emitted one, and the reason for it."""

    name: str
    caffe: tuple[tuple[int, int], ...]
    same: tuple[tuple[int, int], ...]
    emitted: str | tuple[tuple[int, int], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SharedFacts:
    """A weight blob of several layers, the owner first."""

    layers: tuple[str, ...]
    index: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class DroppedFacts:
    """A layer that the module leaves out."""

    name: str
    type: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Inspection:
    """A net as `inspect` shows it."""

    name: str
    phase: str
    layers: tuple[LayerFacts, ...]
    inputs: tuple[BlobFacts, ...]
    outputs: tuple[BlobFacts, ...]
    padding: tuple[PaddingFacts, ...]
    shared: tuple[SharedFacts, ...]
    dropped: tuple[DroppedFacts, ...]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters; shared ones count once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def memory(self) -> int:
        """Bytes of all blobs, inputs included, as Caffe keeps all of them in memory."""
        inputs = sum(prod(blob.shape) * BYTES for blob in self.inputs)
        return inputs + sum(layer.memory for layer in self.layers)

    def __repr__(self) -> str:
        counts = f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds"
        layers = f"{len(self.layers):,} layers"
        return f"Inspection({self.name}, {self.phase}: {layers}, {counts})"

    def _repr_html_(self) -> str:
        """What a notebook shows: totals, and a table of the layers."""
        facts = (
            ("phase", self.phase),
            ("inputs", ", ".join(map(_shown, self.inputs))),
            ("outputs", ", ".join(map(_shown, self.outputs))),
            ("parameters", f"{self.parameters:,}"),
            ("multiply-adds", f"{self.multiply_adds:,}"),
            ("activations", size(self.memory)),
            *markup.noted(self.notes),
        )
        rows = [layer.row() for layer in self.layers]
        title = f"{len(self.layers):,} layers"
        return markup.card(
            self.name, facts, markup.folded(title, markup.table(TITLES, rows))
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        totals = {
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "memory": self.memory,
        }
        return {**asdict(self), "totals": totals}


def _shown(blob: BlobFacts) -> str:
    return f"{blob.name} {by(blob.emitted)} ({blob.order})"


def inspect_graph(graph: Graph, notes: Sequence[str] = ()) -> Inspection:
    """The facts about a graph after all passes."""
    owners: set[tuple[int, int]] = set()
    return Inspection(
        graph.name,
        graph.phase,
        tuple(_layers(graph, owners)),
        tuple(_blob(graph, value) for value in graph.arguments),
        tuple(_blob(graph, value) for value in graph.outputs),
        tuple(_padding(node.name, padding) for node, padding in paddings(graph)),
        tuple(_shared(graph)),
        tuple(
            DroppedFacts(d.name, d.type, d.span.line, d.reason)
            for d in graph.remarks.dropped
        ),
        (*graph.remarks.notes, *notes),
    )


def _layers(graph: Graph, owners: set[tuple[int, int]]) -> Iterator[LayerFacts]:
    for node in graph.nodes:
        if node.number < 0:
            continue  # a change of layout, which is no layer of Caffe
        for layer in node.layers:
            value = layer.outputs[0]
            layout = graph.layouts.get(value) or graph.layouts[node.outputs[0]]
            own = [w for w in layer.weights if (w.owner, w.index) not in owners]
            owners.update((w.owner, w.index) for w in own)
            shapes = [graph.shapes[v] for v in layer.inputs]
            yield LayerFacts(
                layer.name,
                layer.layer.type,
                layer.span.line,
                graph.shapes[value],
                layout.arrange(graph.shapes[value]),
                order(layout),
                sum(prod(w.shape) for w in own),
                layer.layer.multiply_adds(*shapes),
                _memory(layer, graph),
                parameters(layer.layer),
            )


def _memory(layer: Node, graph: Graph) -> int:
    """Bytes of the tops that are not bottoms too."""
    bottoms = {value.blob for value in layer.inputs}
    fresh = [value for value in layer.outputs if value.blob not in bottoms]
    return sum(prod(graph.shapes[value]) * BYTES for value in fresh)


def _blob(graph: Graph, value: Value) -> BlobFacts:
    layout = graph.layouts[value]
    shape = graph.shapes[value]
    transform = graph.transforms.get(value.blob)
    steps = transform.describe(graph.phase) if transform else ""
    return BlobFacts(value.blob, shape, layout.arrange(shape), order(layout), steps)


def order(layout: Layout) -> str:
    """The axes in emitted order: NHWC, or NC* where the entries of an axis are in
    another order than Caffe's."""
    usual = {5: "NCDHW"}.get(layout.rank, "NCHW")
    names = usual if layout.rank <= len(usual) else [f"{i}." for i in range(MOST_AXES)]
    stars = ("*" if entries else "" for entries in layout.arrange_each(layout.orders))
    return "".join(names[a] + star for a, star in zip(layout.axes, stars, strict=True))


def _padding(name: str, padding: Padding) -> PaddingFacts:
    return PaddingFacts(
        name, padding.caffe, padding.same, padding.emitted, padding.reason
    )


def _shared(graph: Graph) -> Iterator[SharedFacts]:
    users: dict[tuple[int, int], dict[str, None]] = {}
    shapes: dict[tuple[int, int], Shape] = {}
    for node in graph.nodes:
        for layer in node.layers:
            for weight in layer.weights:
                key = (weight.owner, weight.index)
                users.setdefault(key, {weight.layer: None})[layer.name] = None
                shapes.setdefault(key, weight.shape)
    for key, names in users.items():
        if len(names) > 1:
            yield SharedFacts(tuple(names), key[1], shapes[key])
