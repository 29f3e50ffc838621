"""The intermediate representation: a graph of layers in static single assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from caffe2flax.errors import ConversionError, Span
from caffe2flax.ir.abilities import (
    DataDependentShape,
    Stateful,
    Stochastic,
    WritesMethod,
)
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.transform import Transform


class Value(NamedTuple):
    """One version of a blob; an in-place layer writes the next version."""

    blob: str
    version: int = 0


class ParamSpec(NamedTuple):
    """`param { name: "w" share_mode: STRICT lr_mult: 1 decay_mult: 1 }` of one weight
    blob; the name is "" for a blob that no other layer shares."""

    name: str
    permissive: bool
    span: Span
    lr_mult: float | None = None
    decay_mult: float | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight blob as in Caffe: blob `index` of layer number `owner` of the net.

    Two nodes with the same Weight share it; each may use it in a shape of its own.
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
    """Position of the layer in the net: distinguishes layers of the same name."""
    specs: tuple[ParamSpec, ...] = ()
    """The `param` messages, for the first weight blobs."""
    loss_weights: tuple[float, ...] = ()
    propagate_down: tuple[bool, ...] = ()
    weights: tuple[Weight, ...] = ()
    parts: tuple[Node, ...] = ()
    """The layers of the net that were folded into this one; empty where none was."""
    type: str = ""
    """The type that the net gives, which several classes of layers may share."""

    @property
    def layers(self) -> tuple[Node, ...]:
        """The layers of the prototxt that this node computes."""
        return self.parts or (self,)

    @property
    def weighted(self) -> tuple[tuple[Value, float], ...]:
        """The tops that count in the total loss, and how often."""
        pairs = zip(self.outputs, self.loss_weights, strict=False)
        return tuple((value, weight) for value, weight in pairs if weight)

    @property
    def carried(self) -> tuple[str, ...]:
        """States that the layer keeps from one call of the net to the next."""
        return self.layer.carried if isinstance(self.layer, Stateful) else ()

    def fail(self, error: ConversionError) -> ConversionError:
        """`error` at this layer's position in the file where it has none."""
        return error.at(self.span)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A layer of the net that the graph leaves out, and why."""

    node: Node
    reason: str

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def type(self) -> str:
        return self.node.layer.type

    @property
    def span(self) -> Span:
        return self.node.span


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CallerShapes:
    """Shapes that do not come from the prototxt.

    `conversion.read_graph` writes them; passes/shapes.py and passes/assumption.py,
    which determine the shapes of the inputs, read them.
    """

    input_shapes: Mapping[str, Shape] = field(default_factory=_empty)
    """Shapes of inputs, by blob: they override those of the prototxt."""
    array_shapes: Mapping[str, Shape] = field(default_factory=_empty)
    """Shapes of the arrays that the module will run on, by blob: used where neither the
    prototxt nor `input_shapes` gives one."""
    weight_shapes: Mapping[str, tuple[Shape, ...]] = field(default_factory=_empty)
    """Shapes of the blobs in the weight files, by layer."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The shapes of the blobs, in Caffe's axis order, and which extents may vary.

    `infer_shapes` writes all but `free_axes`, which `find_free_sizes` writes;
    `files_to_inputs` and `assign_layouts` add their own values. Layers see them as
    `Operand`; codegen, weights and the code that runs a module read them.
    """

    shapes: Mapping[Value, Shape] = field(default_factory=_empty)
    larger_batch: Mapping[Value, Shape] = field(default_factory=_empty)
    """The shapes under a batch `layout.BATCH_SCALE` times as large; those of `shapes`
    where the batch is fixed."""
    assumed: frozenset[Value] = frozenset()
    """Inputs whose shape neither the net nor the caller gives: a usual shape is
    assumed, and the module accepts no other."""
    free_axes: Mapping[Value, frozenset[int]] = field(default_factory=_empty)
    """The axes of an input, but for the first, whose extent no layer fixes."""

    def with_shapes(
        self, shapes: Mapping[Value, Shape], larger_batch: Mapping[Value, Shape]
    ) -> Sizes:
        """This with the shapes of more values."""
        return replace(
            self,
            shapes={**self.shapes, **shapes},
            larger_batch={**self.larger_batch, **larger_batch},
        )


@dataclass(frozen=True, slots=True)
class Remarks:
    """What the user should know of a conversion.

    ir/build.py and the passes add to it; the command line, `inspect`, drawing and
    weights read it.
    """

    notes: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A net: `nodes` in an order in which every value is computed before it is read."""

    name: str
    phase: str
    inputs: tuple[Node, ...]
    """Input and data layers: their outputs are the module's inputs, in order."""
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    blobs: Mapping[str, Value]
    """The version that each blob has when the net has run."""
    taps: tuple[Value, ...] = ()
    transforms: Mapping[str, Transform] = field(default_factory=_empty)
    """How Caffe prepares images, by the blob that the images become."""
    caller_shapes: CallerShapes = CallerShapes()
    sizes: Sizes = Sizes()
    layouts: Mapping[Value, Layout] = field(default_factory=_empty)
    """The layout of each value in generated code; `assign_layouts` writes it."""
    remarks: Remarks = Remarks()

    @property
    def shapes(self) -> Mapping[Value, Shape]:
        return self.sizes.shapes

    @property
    def arguments(self) -> tuple[Value, ...]:
        """The module's inputs, in the prototxt's order."""
        unread = self.unread
        tops = (value for node in self.inputs for value in node.outputs)
        return tuple(value for value in tops if value not in unread)

    @property
    def unread(self) -> frozenset[Value]:
        """Inputs of the net that no converted layer reads, such as labels at test:
        the module does not take them, unless it returns them."""
        found = {value for node in self.inputs for value in node.outputs}
        found -= self.returned
        if found:
            found.difference_update(*(node.inputs for node in self.nodes))
        return frozenset(found)

    @property
    def returned(self) -> frozenset[Value]:
        """Values that the module returns."""
        return frozenset(self.outputs) | frozenset(self.taps)

    @property
    def dynamic(self) -> tuple[str, ...]:
        """Layers whose tops have a size that depends on the data: a net that has one
        cannot be jitted."""
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
        """The weights that a layer of a weights file is loaded into, by its name: those
        of the first layer of that name in the net."""
        layers = (layer for node in self.nodes for layer in node.layers)
        known = (
            x for x in layers if x.number >= 0 and not isinstance(x.layer, WritesMethod)
        )
        weights: dict[str, tuple[Weight, ...]] = {}
        for layer in sorted(known, key=lambda x: x.number):
            weights.setdefault(layer.name, layer.weights)
        return weights

    def readers(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value; one that reads it twice is listed twice."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in readers.items()}

    def operand(self, value: Value) -> Operand:
        shape = self.shapes[value]
        layout = self.layouts.get(value) or Layout.caffe(len(shape))
        return Operand(shape, layout, self.sizes.larger_batch.get(value, shape))

    def with_notes(self, *notes: str) -> Graph:
        added = replace(self.remarks, notes=(*self.remarks.notes, *notes))
        return replace(self, remarks=added)


def check(graph: Graph) -> Graph:
    """`graph`, checked: every value is computed once, before it is read.

    An AssertionError here is a fault of a pass, never of the input.
    """
    computed = set(graph.arguments)
    assert len(computed) == len(graph.arguments), "an input is listed twice"
    for node in graph.nodes:
        missing = [value for value in node.inputs if value not in computed]
        assert not missing, f"{node.name} reads {missing} before they are computed"
        again = computed.intersection(node.outputs)
        assert not again, f"{node.name} computes {again} a second time"
        computed.update(node.outputs)
    results = (*graph.outputs, *graph.taps)
    unknown = [value for value in results if value not in computed]
    assert not unknown, f"no node computes {unknown}"
    for value, shape in graph.shapes.items():
        layout = graph.layouts.get(value)
        assert layout is None or layout.rank == len(shape), f"{value}: {layout}"
    return graph
