"""The rewrites: each takes one operation of a graph and returns the one that it put in
its place, or None."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from caffe2flax.cpu import kernels, training
from caffe2flax.cpu.graph import Graph, Node, Value
from caffe2flax.cpu.layers import convolution, dense
from caffe2flax.cpu.methods import Capabilities, choose

Rewrite = Callable[[Graph, Node], Node | None]

LONGEST = 8
"""The longest window that is computed by shifted slices: for longer ones that is
slower."""


def windows(graph: Graph, node: Node) -> Node | None:
    """Maxima and sums over windows: by shifted slices, axis by axis."""
    if node.op not in ("reduce_window_max", "reduce_window_sum"):
        return None
    p, x = node.params, node.inputs[0]
    size, padding = p["window_dimensions"], tuple(map(tuple, p["padding"]))
    if max(*p["base_dilation"], *p["window_dilation"], 1, 1) > 1:
        return None
    if x.dtype != np.float32 or 0 in (*x.shape, *node.outputs[0].shape):
        return None
    if min((n for pair in padding for n in pair), default=0) < 0:
        return None
    each = zip(size, x.shape, padding, strict=True)
    long = [w for w, n, pads in each if w != n or pads != (0, 0)]
    if max(long, default=1) > LONGEST:
        return None
    params = {
        "size": size,
        "strides": p["window_strides"],
        "padding": padding,
        "largest": node.op == "reduce_window_max",
    }
    return replace_nodes(graph, [node], node.inputs, kernels.combined_windows, params)


def power(graph: Graph, node: Node) -> Node | None:
    """y^-0.75, its derivative's y^-1.75, and x / y^0.75: by roots."""
    if is_power(node, -0.75):
        return replace_nodes(graph, [node], node.inputs[:1], kernels.inverse_power)
    if is_power(node, -1.75):
        return replace_nodes(graph, [node], node.inputs[:1], kernels.steeper_power)
    if node.op != "div":
        return None
    x, below = node.inputs
    maker = graph.makers.get(below)
    if maker is None or not is_power(maker, 0.75) or graph.only_user(below) is None:
        return None

    def divided(x: Array, y: Array) -> Array:
        return x * kernels.inverse_power(y)

    return replace_nodes(graph, [maker, node], [x, maker.inputs[0]], divided)


def is_power(node: Node, exponent: float) -> bool:
    if node.op != "pow" or node.outputs[0].dtype != np.float32:
        return False
    known = node.inputs[1]
    if not known.known or math.prod(known.shape) != 1:
        return False
    return bool(np.float32(known.constant).item() == exponent)


def joined(graph: Graph, node: Node) -> Node | None:
    """The channels of two arrays of one shape, concatenated: as rows of one more axis,
    which XLA distributes over several cores."""
    if node.op != "concatenate" or len(node.inputs) != 2:
        return None
    x, y = node.inputs
    if x.shape != y.shape or node.params["dimension"] != len(x.shape) - 1:
        return None
    if len(x.shape) < 2 or x.dtype != np.float32:
        return None

    def join(x: Array, y: Array) -> Array:
        both = jnp.stack([x, y], axis=-2)
        return both.reshape(*x.shape[:-1], 2 * x.shape[-1])

    return replace_nodes(graph, [node], node.inputs, join)


def replace_nodes(
    graph: Graph,
    old: list[Node],
    inputs: list[Value],
    run: Callable[..., Any],
    params: dict[str, Any] | None = None,
) -> Node:
    """Replaces the nodes `old` by one that computes run(*inputs, **params)."""
    origin = tuple(name for node in old for name in node.origin)
    given = params or {}
    new = Node(old[-1].op, inputs, old[-1].outputs, run, given, origin)
    graph.replace(old, new)
    return new


REWRITES: dict[str, Rewrite] = {
    "convolution with what follows": convolution,
    "dense layer with what follows": dense,
    "windows as shifted slices": windows,
    "power of 3/4 by roots": power,
    "two arrays joined": joined,
}


def rewrite(graph: Graph, capabilities: Capabilities, trains: bool = False) -> Graph:
    """The graph after all rewrites, with a method chosen for each layer. With `trains`
    also for convolutions whose kernels are inputs, and for derivatives."""
    for name, change in REWRITES.items():
        for node in list(graph.nodes):
            if node.steps or graph.makers.get(node.outputs[0]) is not node:
                continue
            new = change(graph, node)
            if new is not None:
                new.steps = (name,)
    for node in graph.nodes:
        if node.op in ("convolution", "dense"):
            choose(node, capabilities)
    if trains:
        training.rewrite(graph, capabilities)
    return graph.prune()


def described(graph: Graph) -> list[str]:
    """A line for each operation: its primitives, its outputs, and its rewrites."""
    lines = []
    for node in graph.nodes:
        shapes = ", ".join(f"{v.dtype.name}{list(v.shape)}" for v in node.outputs)
        steps = ": " + ", ".join(node.steps) if node.steps else ""
        lines.append(f"{' + '.join(node.origin)} {shapes}{steps}")
    return lines
