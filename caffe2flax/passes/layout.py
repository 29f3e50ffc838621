"""Layouts: channels last for images, Caffe's order elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from caffe2flax.errors import Span
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape

NONE: Mapping[str, Layout] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Relayout(Layer):
    """The same blob in another layout."""

    have: Layout
    want: Layout

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((self.have,), (self.want,))

    def call(self, at: Site) -> str:
        x, layout = at.x, self.have
        for axis, order in enumerate(self.have.orders):
            if order and not self.want.orders[axis]:
                segments = tuple((tuple(s.dims), tuple(s.perm)) for s in order)
                place = layout.position(axis)
                x = f"to_caffe_order({arguments(x, place, literal(segments))})"
        if self.have.axes != self.want.axes:
            x = f"jnp.transpose({x}, {self.have.permutation(self.want)})"
        return x

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return inputs[0]


def assign_layouts(graph: Graph, given: Mapping[str, Layout] = NONE) -> Graph:
    """Gives every value its layout, and adds a Relayout node where a layer needs its
    bottom in another one.

    Before: pool5 -> Reshape -> ...      (pool5 is N, H, W, C in generated code)
    After:  pool5 -> Relayout -> Reshape, only where the reshape has to move data

    Inputs of four and more axes are channels last unless Caffe's order needs fewer
    transposes. Outputs and taps are channels last or have Caffe's order of axes; along
    each axis their entries are always in Caffe's order.

    given: the layouts of inputs, by blob, where they are decided already.
    """
    chosen = {v: given.get(v.blob) or _usual(graph, v) for v in graph.arguments}
    best = _Walk(graph).run(chosen)
    for value in graph.arguments:
        if value.blob in given:
            continue
        for other in _others(len(graph.shapes[value])):
            tried = _Walk(graph).run(chosen | {value: other})
            if tried.cost < best.cost:
                chosen, best = chosen | {value: other}, tried
    return replace(
        graph,
        nodes=tuple(best.nodes),
        sizes=graph.sizes.with_shapes(best.shapes, best.larger_batch),
        layouts=best.layouts,
        outputs=tuple(best.results(graph.outputs)),
        taps=tuple(best.results(graph.taps)),
    )


def _usual(graph: Graph, value: Value) -> Layout:
    rank = len(graph.shapes[value])
    return Layout.channels_last(rank) if rank >= 4 else Layout.caffe(rank)


def _others(rank: int) -> Iterable[Layout]:
    if rank >= 4:
        return (Layout.caffe(rank),)
    return (Layout.channels_last(rank),) if rank == 3 else ()


def _result_layout(layout: Layout) -> Layout:
    """The layout in which the module returns a blob."""
    last = Layout.channels_last(layout.rank)
    return last if layout.axes == last.axes else Layout.caffe(layout.rank)


class _Walk:
    """The layouts of all values for one choice of input layouts; `cost` counts the
    transposes."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[Node] = []
        self.layouts: dict[Value, Layout] = {}
        self.shapes: dict[Value, Shape] = {}
        self.larger_batch: dict[Value, Shape] = {}
        self.moved: dict[tuple[Value, Layout], Value] = {}
        self.cost = 0

    def run(self, inputs: dict[Value, Layout]) -> _Walk:
        self.layouts.update(inputs)
        for node in self.graph.nodes:
            operands = [self._operand(value) for value in node.inputs]
            plan = node.layer.layouts(*operands)
            moved = tuple(map(self._move, node.inputs, plan.inputs))
            self.nodes.append(replace(node, inputs=moved))
            self.layouts.update(zip(node.outputs, plan.outputs, strict=True))
        for value in (*self.graph.outputs, *self.graph.taps):
            self._move(value, _result_layout(self.layouts[value]))
        return self

    def results(self, values: Iterable[Value]) -> Iterable[Value]:
        return (
            self._move(value, _result_layout(self.layouts[value])) for value in values
        )

    def _operand(self, value: Value) -> Operand:
        sizes = self.graph.sizes
        layout = self.layouts[value]
        return Operand(sizes.shapes[value], layout, sizes.larger_batch[value])

    def _move(self, value: Value, want: Layout) -> Value:
        """`value` in the layout `want`: itself, or the output of a Relayout."""
        have = self.layouts[value]
        if have == want:
            return value
        assert all(
            not to or to == given
            for given, to in zip(have.orders, want.orders, strict=True)
        ), f"{value}: entries are only ever put back into Caffe's order"
        known = self.moved.get((value, want))
        if known is not None:
            return known
        moved_value = Value(value.blob, self._new_version(value.blob))
        self.moved[value, want] = moved_value
        self.layouts[moved_value] = want
        self.shapes[moved_value] = self.graph.shapes[value]
        self.larger_batch[moved_value] = self.graph.sizes.larger_batch[value]
        self.cost += 1
        number = -1 - len(self.moved)
        layer = Relayout(have, want)
        span = Span("")
        self.nodes.append(
            Node(value.blob, layer, (value,), (moved_value,), span, number)
        )
        return moved_value

    def _new_version(self, blob: str) -> int:
        """A version of the blob that the net does not have."""
        moved = sum(value.blob == blob for value, _ in self.moved)
        return self.graph.blobs[blob].version + 1 + moved
