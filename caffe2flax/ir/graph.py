"""The intermediate representation: a graph of layers in static single assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from caffe2flax.errors import ConversionError, Span
from caffe2flax.ir.abilities import DataDependentShape, Source, Stateful, Stochastic
from caffe2flax.ir.layout import Layout, Operand, Shape

if TYPE_CHECKING:
    from caffe2flax.ir.filler import Filler
    from caffe2flax.ir.layer import Layer
    from caffe2flax.ir.transform import Transform
    from caffe2flax.ir.window import Padding


class Value(NamedTuple):
    """A blob; an in-place layer makes its next version."""

    blob: str
    version: int = 0


class Share(NamedTuple):
    """`param { name: "w" share_mode: STRICT }` of one weight blob."""

    name: str
    permissive: bool
    span: Span
    lr_mult: float | None = None
    decay_mult: float | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight blob as Caffe holds it: blob `index` of layer number `owner` of the net.

    Two nodes that hold the same Weight share it; each may see it in a shape of its own.
    """

    layer: str
    index: int
    shape: Shape = field(compare=False)
    filler: Filler
    owner: int


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of the net, with its place in the graph."""

    name: str
    layer: Layer
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    span: Span
    number: int
    """Position of the layer in the net: tells layers of one name apart."""
    shares: tuple[Share | None, ...] = ()
    loss_weights: tuple[float, ...] = ()
    propagate_down: tuple[bool, ...] = ()
    weights: tuple[Weight, ...] = ()
    parts: tuple[Node, ...] = ()
    """The net's layers that this one does the work of, where it was made of several."""

    @property
    def layers(self) -> tuple[Node, ...]:
        """The layers of the net, as the prototxt has them."""
        return self.parts or (self,)

    @property
    def carried(self) -> tuple[str, ...]:
        """States that its layer keeps from one call of the net to the next."""
        return self.layer.carried if isinstance(self.layer, Stateful) else ()

    def fail(self, error: ConversionError) -> ConversionError:
        """`error` with this layer's place where it has none."""
        return error.at(self.span)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A layer of the net that the graph leaves out, and why."""

    name: str
    type: str
    reason: str
    span: Span


@dataclass(frozen=True, slots=True)
class Block:
    """A group of nodes that occurs more than once, up to the values of its attributes.

    name: the part of Caffe's names that its layers share. names and blobs: what is
    left of the names of its nodes and of the values they make. Blocks with one `kind`
    have the same layer types, wired alike.
    """

    name: str
    stem: str
    nodes: tuple[int, ...]
    inputs: tuple[Value, ...]
    output: Value
    names: tuple[str, ...]
    blobs: Mapping[Value, str]
    kind: tuple[object, ...]


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Graph:
    """A net: `nodes` in an order in which every value is made before it is read."""

    name: str
    phase: str
    inputs: tuple[Node, ...]
    """Input and data layers: their outputs are what the module takes, in order."""
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    blobs: Mapping[str, Value]
    """The version of each blob that stands when the net has run."""
    taps: tuple[Value, ...] = ()
    input_shapes: Mapping[str, Shape] = field(default_factory=_empty)
    """Shapes that the caller gives to inputs, by blob."""
    at_hand: Mapping[str, Shape] = field(default_factory=_empty)
    """Shapes of arrays that will be fed: they count where nothing else says."""
    shapes: Mapping[Value, Shape] = field(default_factory=_empty)
    scaled: Mapping[Value, Shape] = field(default_factory=_empty)
    """The shapes under a batch scaled by `layout.BATCH_SCALE`."""
    slots: Mapping[str, tuple[Weight, ...]] = field(default_factory=_empty)
    """The weights that a layer of this name in a weights file goes into."""
    layouts: Mapping[Value, Layout] = field(default_factory=_empty)
    padding: Mapping[str, Padding] = field(default_factory=_empty)
    """What was decided for each windowed layer."""
    transforms: Mapping[str, Transform] = field(default_factory=_empty)
    """How Caffe prepares images, by the blob that the layer makes of them."""
    held: Mapping[str, tuple[Shape, ...]] = field(default_factory=_empty)
    """Shapes of the blobs that the weight files hold, by layer."""
    assumed: frozenset[Value] = frozenset()
    """Inputs whose shape nothing tells, and which the module takes in no other."""
    free: Mapping[Value, frozenset[int]] = field(default_factory=_empty)
    """The axes of an input, but for the first, whose extent no layer fixes."""
    unread: frozenset[Value] = frozenset()
    """Blobs of data layers that the net has no use for: labels at test."""
    blocks: tuple[Block, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """Paragraphs of the module's docstring."""

    @property
    def arguments(self) -> tuple[Value, ...]:
        """What the module takes, in the prototxt's order."""
        made = (value for node in self.inputs for value in node.outputs)
        return tuple(value for value in made if value not in self.unread)

    @property
    def optional(self) -> tuple[Value, ...]:
        """Tops of sources that are inputs only where the net reads them."""
        return tuple(
            value
            for node in self.inputs
            if isinstance(node.layer, Source) and node.layer.optional
            for value in node.outputs
        )

    @property
    def wanted(self) -> frozenset[Value]:
        """Values that leave the module."""
        return frozenset(self.outputs) | frozenset(self.taps)

    @property
    def dynamic(self) -> tuple[str, ...]:
        """Layers whose tops follow the data in size, so that nothing can be jitted."""
        return tuple(
            node.name
            for node in self.nodes
            if isinstance(node.layer, DataDependentShape)
        )

    @property
    def random(self) -> tuple[str, ...]:
        """Layers whose tops are random in this phase."""
        return tuple(
            node.name
            for node in self.nodes
            if isinstance(node.layer, Stochastic) and node.layer.draws(self.phase)
        )

    def readers(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value; one that reads it twice stands twice."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    def operand(self, value: Value) -> Operand:
        shape = self.shapes[value]
        layout = self.layouts.get(value) or Layout.caffe(len(shape))
        return Operand(shape, layout, self.scaled.get(value, shape))

    def with_notes(self, *notes: str) -> Graph:
        return replace(self, notes=(*self.notes, *notes))


def check(graph: Graph) -> Graph:
    """`graph`, with its invariants held: every value made once, before it is read.

    An AssertionError here is a fault of a pass, never of the input.
    """
    made = set(graph.arguments)
    assert len(made) == len(graph.arguments), "an input stands twice"
    for node in graph.nodes:
        missing = [value for value in node.inputs if value not in made]
        assert not missing, f"{node.name} reads {missing} before they are made"
        again = made.intersection(node.outputs)
        assert not again, f"{node.name} makes {again} a second time"
        made.update(node.outputs)
    lost = [value for value in (*graph.outputs, *graph.taps) if value not in made]
    assert not lost, f"nothing makes {lost}"
    for value, shape in graph.shapes.items():
        layout = graph.layouts.get(value)
        assert layout is None or layout.rank == len(shape), f"{value}: {layout}"
    return graph
