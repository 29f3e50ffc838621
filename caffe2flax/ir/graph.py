"""The intermediate representation: a graph of layers in static single assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from caffe2flax.errors import ConversionError, Span
from caffe2flax.ir.abilities import (
    ComputedByCaller,
    DataDependentShape,
    Source,
    Stateful,
    Stochastic,
    WritesMethod,
)
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.transform import Transform


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
    number: int
    """Position of the layer in the net."""


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller says of a net, besides its prototxt.

    `conversion.read_graph` writes it; passes/shapes.py and passes/assumption.py, which
    settle the shapes of the inputs, read it.
    """

    input_shapes: Mapping[str, Shape] = field(default_factory=_empty)
    """Shapes of inputs, by blob: they count before the prototxt's."""
    array_shapes: Mapping[str, Shape] = field(default_factory=_empty)
    """Shapes of the arrays that the module will be run on, by blob: they count where
    nothing else says."""
    weight_shapes: Mapping[str, tuple[Shape, ...]] = field(default_factory=_empty)
    """Shapes of the blobs in the weight files, by layer."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The shapes of the blobs, in Caffe's axis order, and which extents may be others.

    `infer_shapes` writes all but `free_axes`, which `find_free_sizes` writes;
    `feed_files` and `assign_layouts` add the values that they make. Layers see them as
    `Operand`; codegen, weights and whatever runs a module read them.
    """

    shapes: Mapping[Value, Shape] = field(default_factory=_empty)
    larger_batch: Mapping[Value, Shape] = field(default_factory=_empty)
    """The shapes under a batch `layout.BATCH_SCALE` times as large; those of `shapes`
    where the batch is fixed."""
    assumed: frozenset[Value] = frozenset()
    """Inputs of a usual shape, as neither the net nor the caller says theirs; the
    module takes them in no other."""
    free_axes: Mapping[Value, frozenset[int]] = field(default_factory=_empty)
    """The axes of an input, but for the first, whose extent no layer fixes."""

    def with_shapes(
        self, shapes: Mapping[Value, Shape], larger_batch: Mapping[Value, Shape]
    ) -> Sizes:
        """The same with those of more values."""
        return replace(
            self,
            shapes={**self.shapes, **shapes},
            larger_batch={**self.larger_batch, **larger_batch},
        )


@dataclass(frozen=True, slots=True)
class Remarks:
    """What the user should know of a conversion.

    ir/build.py and the passes write it, each adding to what is there; the command line,
    `inspect`, drawing and weights read it.
    """

    notes: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()


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
    """The version that each blob has when the net has run."""
    taps: tuple[Value, ...] = ()
    transforms: Mapping[str, Transform] = field(default_factory=_empty)
    """How Caffe prepares images, by the blob that the layer makes of them."""
    given: Given = Given()
    sizes: Sizes = Sizes()
    layouts: Mapping[Value, Layout] = field(default_factory=_empty)
    """How generated code keeps each value; `assign_layouts` writes it."""
    remarks: Remarks = Remarks()

    @property
    def shapes(self) -> Mapping[Value, Shape]:
        return self.sizes.shapes

    @property
    def arguments(self) -> tuple[Value, ...]:
        """What the module takes, in the prototxt's order."""
        unread = self.unread
        made = (value for node in self.inputs for value in node.outputs)
        return tuple(value for value in made if value not in unread)

    @property
    def unread(self) -> frozenset[Value]:
        """Tops of data layers, and of layers whose work is the caller's, that the net
        has no use for: labels at test."""
        inputs = (node for node in self.inputs if _is_optional(node.layer))
        found = {value for node in inputs for value in node.outputs} - self.returned
        if found:
            found.difference_update(*(node.inputs for node in self.nodes))
        return frozenset(found)

    @property
    def returned(self) -> frozenset[Value]:
        """Values that the module returns."""
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

    @property
    def layer_weights(self) -> Mapping[str, tuple[Weight, ...]]:
        """The weights that a layer of this name in a weights file goes into: of the
        net's layers of one name, those of the first."""
        layers = (layer for node in self.nodes for layer in node.layers)
        known = (
            x for x in layers if x.number >= 0 and not isinstance(x.layer, WritesMethod)
        )
        found: dict[str, tuple[Weight, ...]] = {}
        for layer in sorted(known, key=lambda x: x.number):
            found.setdefault(layer.name, layer.weights)
        return found

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
        return Operand(shape, layout, self.sizes.larger_batch.get(value, shape))

    def with_notes(self, *notes: str) -> Graph:
        added = replace(self.remarks, notes=(*self.remarks.notes, *notes))
        return replace(self, remarks=added)


def _is_optional(layer: Layer) -> bool:
    """Whether its tops are inputs of the module only where the net reads them."""
    if isinstance(layer, ComputedByCaller):
        return True
    return isinstance(layer, Source) and layer.optional


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
