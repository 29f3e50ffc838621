"""Recognises a convolution or a dense layer with what follows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax

from caffe2flax.cpu.graph import Graph, Node, Value

LARGEST_SCALE = 1e6
"""The largest scale that is folded: beyond it, a product could overflow in float32."""


@dataclass
class Tail:
    """What follows a layer: (scale * y + shift) + other, and max(that, 0)."""

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    other: Value | None = None
    relu: bool = False
    keys: tuple[Any, ...] = ()
    scale_keys: tuple[Any, ...] = ()


def convolution(graph: Graph, node: Node) -> Node | None:
    """A convolution, channels last, whose kernel is known, with its tail."""
    if node.op != "conv_general_dilated":
        return None
    a, (x, kernel) = node.params, node.inputs
    numbers, rank = a["dimension_numbers"], len(x.shape) - 2
    last = (0, rank + 1, *range(1, rank + 1))
    layout = (last, (rank + 1, rank, *range(rank)), last)
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    if tuple(map(tuple, specs)) != layout or a["batch_group_count"] != 1:
        return None
    if rank < 1 or not exact(node):
        return None
    names = ("rhs_dilation", "lhs_dilation", "feature_group_count")
    params = {name: a[name] for name in names} | {
        "strides": a["window_strides"],
        "padding": tuple(map(tuple, a["padding"])),
    }
    return with_tail(graph, node, "convolution", [x, kernel], params)


def dense(graph: Graph, node: Node) -> Node | None:
    """The product of x (..., k) with a known matrix (k, n), or (n, k), with its
    tail."""
    if node.op != "dot_general":
        return None
    (left, right), batch = node.params["dimension_numbers"]
    x, kernel = node.inputs
    if tuple(map(tuple, batch)) != ((), ()) or len(kernel.shape) != 2:
        return None
    if tuple(left) != (len(x.shape) - 1,) or not exact(node):
        return None
    if tuple(right) == (1,):
        given = kernel
        kernel = Value(
            given.shape[::-1],
            given.dtype,
            lambda: np.asarray(given.constant).T,
            ("turned", given.key),
        )
    return with_tail(graph, node, "dense", [x, kernel], {})


def exact(node: Node) -> bool:
    """Whether a layer has known weights, and exact numbers."""
    x, kernel = node.inputs
    return kernel.known and not x.known and exact_numbers(node)


def exact_numbers(node: Node) -> bool:
    """Whether a layer has float32 inputs and outputs, none of them empty, and a
    precision of float32."""
    x, kernel = node.inputs
    y = node.outputs[0]
    if 0 in (*x.shape, *kernel.shape, *y.shape):
        return False
    wanted = node.params.get("preferred_element_type") or np.float32
    if any(np.dtype(d) != np.float32 for d in (x.dtype, kernel.dtype, y.dtype, wanted)):
        return False
    precision = node.params.get("precision")
    each = precision if isinstance(precision, tuple) else (precision,)
    full = all(p is None or isinstance(p, lax.Precision) for p in each)
    return full and node.params.get("out_sharding") is None


def with_tail(
    graph: Graph, node: Node, op: str, inputs: list[Value], params: dict[str, Any]
) -> Node:
    """The layer and its tail as one node, which replaces them in the graph."""
    x, kernel = inputs
    channels, chain = kernel.shape[-1], [node]
    value, tail = node.outputs[0], Tail()
    while (user := graph.only_user(value)) is not None:
        if tail.relu or not absorb(tail, user, value, channels):
            break
        chain.append(user)
        (value,) = user.outputs
    inputs = [x, scaled(kernel, tail)]
    if (shift := tail.shift) is not None:
        bias = shift.astype(np.float32)
        key = ("shift", tail.keys, tail.scale_keys)
        inputs.append(Value((channels,), np.dtype(np.float32), lambda: bias, key))
    if tail.other is not None:
        inputs.append(tail.other)
    params = params | {"relu": tail.relu, "biased": tail.shift is not None}
    origin = tuple(name for part in chain for name in part.origin)
    layer = Node(op, inputs, [value], unchosen, params, origin)
    graph.replace(chain, layer)
    return layer


def absorb(tail: Tail, user: Node, value: Value, channels: int) -> bool:
    """Adds an operation to the tail, where possible, and returns whether it was."""
    if len(user.inputs) != 2 or len(user.outputs) != 1:
        return False
    (result,) = user.outputs
    if result.shape != value.shape or result.dtype != value.dtype:
        return False
    first = user.inputs[0] is value
    operand = user.inputs[1] if first else user.inputs[0]
    if operand is value:
        return False
    if user.op == "max" and is_zero(operand):
        tail.relu = True
        return True
    if tail.other is not None:
        return False
    if user.op in ("add", "sub", "mul", "div") and per_channel(operand, channels):
        return scale_or_shift(tail, user.op, operand, first, channels)
    if user.op == "add" and operand.shape == value.shape:
        tail.other = operand
        return True
    return False


def scale_or_shift(
    tail: Tail, op: str, operand: Value, first: bool, channels: int
) -> bool:
    number = np.asarray(operand.constant, np.float64).reshape(-1)
    number = np.broadcast_to(number, channels)
    if op == "div" and first:
        with np.errstate(all="ignore"):
            op, number = "mul", 1 / number
    if not np.isfinite(number).all():
        return False
    key = (op, first, operand.key)
    if op == "mul":
        scale = number if tail.scale is None else tail.scale * number
        if not np.abs(scale).max() < LARGEST_SCALE:
            return False
        tail.scale = scale
        tail.shift = None if tail.shift is None else tail.shift * number
        tail.scale_keys += (key,)
        tail.keys += (key,)
        return True
    if op == "add" or (op == "sub" and first):
        signed = number if op == "add" else -number
        tail.shift = signed if tail.shift is None else tail.shift + signed
        tail.keys += (key,)
        return True
    return False


def scaled(kernel: Value, tail: Tail) -> Value:
    """The kernel times the scale of each output."""
    if (scale := tail.scale) is None:
        return kernel

    def compute() -> Any:
        return np.multiply(kernel.constant, scale, dtype=np.float64).astype(np.float32)

    key = ("scaled", kernel.key, tail.scale_keys)
    return Value(kernel.shape, kernel.dtype, compute, key)


def per_channel(value: Value, channels: int) -> bool:
    """Whether the value is known, and one number or one for each channel, the last
    axis."""
    count = math.prod(value.shape)
    if not value.known or value.dtype != np.float32:
        return False
    return count == 1 or (count == channels and value.shape[-1] == channels)


def is_zero(value: Value) -> bool:
    return value.known and math.prod(value.shape) == 1 and not np.any(value.constant)


def unchosen(*inputs: Any, **params: Any) -> Any:
    raise AssertionError("no method to compute this layer was chosen")


LAYERS: dict[str, Callable[[Graph, Node], Node | None]] = {
    "convolution": convolution,
    "dense": dense,
}
