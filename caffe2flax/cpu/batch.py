"""Large batches two items at a time, where the arrays of all items do not fit into the
processor's cache and there are few weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from caffe2flax.cpu.graph import Graph, Node, Value

READING = (
    "conv_general_dilated",
    "dot_general",
    "reduce_window_max",
    "reduce_window_sum",
)

LARGE = 2**17
"""The size of an array, in elements, from which it is written to memory and read
back."""


def end_of_large(graph: Graph) -> int:
    """The number of operations, from the first on, to compute two items at a time. In
    these, the arrays of the whole batch exceed the processor's cache; after them,
    reading the weights again for each pair costs more. 0 where nothing is gained or
    items depend on each other. Without a layer nothing is gained, as XLA fuses
    everything else into one loop."""
    counts = {value.shape[:1] for value in graph.inputs}
    if len(counts) != 1 or (count := sum(max(counts))) < 3:
        return 0
    places = [i for i, node in enumerate(graph.nodes) if node.op in READING]
    blobs, weights = {}, {}
    for i in places:
        node = graph.nodes[i]
        numbers = math.prod(node.outputs[0].shape)
        blobs[i] = 2 * numbers if numbers >= LARGE else 0
        weights[i] = sum(math.prod(v.shape) for v in node.inputs if v.known)
    passes = -(-count // 2) - 1

    def cost(end: int) -> int:
        again = passes * sum(n for i, n in weights.items() if i < end)
        return again + sum(n for i, n in blobs.items() if i >= end)

    layers = (i for i in places if graph.nodes[i].op in READING[:2])
    first = next(layers, len(graph.nodes))
    after = [i for i in (*places, len(graph.nodes)) if i > first]
    end = min((0, *after), key=cost)
    return end if end and by_item(cut(graph, end)[0]) else 0


def cut(graph: Graph, end: int) -> tuple[Graph, Graph]:
    """The first `end` operations, and the others, which read the outputs of the
    first."""
    first, others = graph.nodes[:end], graph.nodes[end:]
    available = {v for node in first for v in node.outputs} | set(graph.inputs)
    read = [v for node in others for v in node.inputs] + graph.outputs
    across = list(dict.fromkeys(v for v in read if v in available))
    return Graph(first, graph.inputs, across), Graph(others, across, graph.outputs)


def by_item(graph: Graph) -> bool:
    """Whether the first axis of all outputs is the batch, and each item of the outputs
    depends on the same item of the inputs only."""
    own = items(graph)
    return own is not None and own.issuperset(graph.outputs)


def items(graph: Graph) -> set[Value] | None:
    """The values with the batch as first axis, each item of which depends on the same
    item of the inputs only; None where a value depends on several items."""
    own = set(graph.inputs)
    for node in graph.nodes:
        if item_wise(node, own):
            own.update(node.outputs)
        elif not own.isdisjoint(node.inputs):
            return None
    return own


ELEMENTWISE = (
    "abs add clamp convert_element_type copy div erf exp exp2 expm1 integer_pow log "
    "log1p logistic max min mul neg pow rsqrt select_n sqrt square stop_gradient sub "
    "tanh gt lt ge le eq ne and or not is_finite sign"
)


def item_wise(node: Node, own: set[Value]) -> bool:
    """Whether each item of the outputs depends on the same item of the inputs only. All
    inputs but constants are in `own`."""
    from_items = [value in own for value in node.inputs]
    return any(from_items) and bool(keeps_items(node, own, from_items))


def keeps_items(node: Node, own: set[Value], from_items: list[bool]) -> Any:
    """`item_wise` for a node with at least one input in `own`."""
    p, first = node.params, node.inputs[0]
    match node.op:
        case "conv_general_dilated":
            numbers, single = p["dimension_numbers"], p["batch_group_count"] == 1
            leading = numbers.lhs_spec[0] == numbers.out_spec[0] == 0
            return from_items == [True, False] and leading and single
        case "dot_general":
            (left, _), (batch, _) = p["dimension_numbers"]
            return from_items == [True, False] and 0 not in left and not batch
        case "reduce_window_max" | "reduce_window_sum":
            single = p["window_dimensions"][0] == p["window_strides"][0] == 1
            gapless = p["base_dilation"][0] == p["window_dilation"][0] == 1
            return single and gapless and tuple(p["padding"][0]) == (0, 0)
        case "reduce_max" | "reduce_min" | "reduce_sum":
            return 0 not in p["axes"]
        case "reshape":
            kept = p["new_sizes"][:1] == first.shape[:1]
            return kept and p["dimensions"] is None
        case "broadcast_in_dim":
            kept = p["shape"][:1] == first.shape[:1]
            return kept and tuple(p["broadcast_dimensions"][:1]) == (0,)
        case "slice":
            whole = p["start_indices"][0] == 0
            whole = whole and p["limit_indices"][0] == first.shape[0]
            return whole and (p["strides"] or (1,))[0] == 1
        case "concatenate":
            return all(from_items) and p["dimension"] != 0
        case "squeeze":
            return 0 not in p["dimensions"]
        case "transpose":
            return p["permutation"][0] == 0
        case "pad":
            alone = from_items == [True, False]
            return alone and tuple(p["padding_config"][0]) == (0, 0, 0)
    same = all(
        value in own or (value.known and value.shape[:1] in ((), (1,)))
        for value in node.inputs
    )
    return same and node.op in ELEMENTWISE.split()


SIZED = {"reshape": "new_sizes", "broadcast_in_dim": "shape", "slice": "limit_indices"}
"""Operations with a parameter that contains the number of items."""


def of_two(graph: Graph) -> Graph:
    """The operations of an item-wise graph for a batch of two."""
    own = items(graph)
    assert own is not None
    paired: dict[Value, Value] = {}

    def pair(value: Value) -> Value:
        if value not in own:
            return value
        two = Value((2, *value.shape[1:]), value.dtype)
        return paired.setdefault(value, two)

    nodes = []
    for node in graph.nodes:
        params: Mapping[str, Any] = node.params
        name = SIZED.get(node.op)
        if name is not None and node.outputs[0] in own:
            params = {**params, name: (2, *params[name][1:])}
        inputs, outputs = list(map(pair, node.inputs)), list(map(pair, node.outputs))
        nodes.append(Node(node.op, inputs, outputs, node.run, params, node.origin))
    return Graph(nodes, list(map(pair, graph.inputs)), list(map(pair, graph.outputs)))


def two_by_two(call: Callable[..., Sequence[Array]], *inputs: Array) -> Sequence[Array]:
    """call(*inputs), two items at a time, with the first twice where their number is
    odd."""
    count = inputs[0].shape[0]
    even = [jnp.concatenate([x, x[: count % 2]]) for x in inputs]
    pairs = [x.reshape(-1, 2, *x.shape[1:]) for x in even]
    results = lax.map(lambda pair: call(*pair), pairs)
    return [y.reshape(-1, *y.shape[2:])[:count] for y in results]
