"""Rewrites of a function that differentiates: convolutions whose kernels are inputs,
their derivatives, and the derivative of a maximum over windows.

They apply after those of `rewrites.py`, to what these leave.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

from caffe2flax.cpu import derivatives
from caffe2flax.cpu.graph import Graph, Node
from caffe2flax.cpu.layers import exact_numbers
from caffe2flax.cpu.methods import Capabilities
from caffe2flax.cpu.plans import Sizes, Window, of_groups

LARGEST_WINDOW = 25
"""The largest window whose maximum is found by shifted slices: each costs a pass."""


def differentiates(graph: Graph) -> bool:
    """Whether a graph has derivatives of convolutions or of maxima over windows: those
    of convolutions have axes in an order that nobody writes."""
    return any(
        node.op == "select_and_scatter_add"
        or (node.op == "conv_general_dilated" and not usual(node))
        for node in graph.nodes
    )


def usual(node: Node) -> bool:
    """Whether x and y have their axes in the same order, and the kernel is OIHW, OHWI
    or HWIO, with any number of spatial axes."""
    x, kernel, y = (
        tuple(spec)
        for spec in (
            node.params["dimension_numbers"].lhs_spec,
            node.params["dimension_numbers"].rhs_spec,
            node.params["dimension_numbers"].out_spec,
        )
    )
    rank = len(x)
    return x == y and kernel[:2] in ((0, 1), (0, rank - 1), (rank - 1, rank - 2))


def rewrite(graph: Graph, capabilities: Capabilities) -> None:
    """Gives a faster method to each node that has one."""
    for node in graph.nodes:
        if node.steps:
            continue
        found = maximum(node) or convolution(node, capabilities)
        if found is not None:
            name, node.run = found
            node.params, node.steps = {}, (name,)


def maximum(node: Node) -> tuple[str, Any] | None:
    """The gradient of a maximum over windows, which goes to the first of them."""
    if node.op != "select_and_scatter_add":
        return None
    g, x = node.inputs
    p = node.params
    if g.dtype != np.float32 or x.dtype != np.float32 or p["select_prim"].name != "ge":
        return None
    size, padding = p["window_dimensions"], tuple(map(tuple, p["padding"]))
    if math.prod(size) > LARGEST_WINDOW or 0 in (*g.shape, *x.shape):
        return None
    if min((n for pair in padding for n in pair), default=0) < 0:
        return None
    run = functools.partial(
        derivatives.to_first_maximum,
        size=size,
        strides=p["window_strides"],
        padding=padding,
    )
    return "maxima by shifted slices", run


def convolution(node: Node, capabilities: Capabilities) -> tuple[str, Any] | None:
    """Any convolution: the name of a method and run(x, kernel); None where it stays
    XLA's."""
    if node.op != "conv_general_dilated" or not exact_numbers(node):
        return None
    a, numbers = node.params, node.params["dimension_numbers"]
    x_axes, kernel_axes = last(numbers.lhs_spec), of_kernel(numbers.rhs_spec)
    y_axes = np.argsort(last(numbers.out_spec))
    x, kernel = (
        tuple(value.shape[i] for i in axes)
        for value, axes in zip(node.inputs, (x_axes, kernel_axes), strict=True)
    )
    if len(x) < 3:
        return None
    sizes = tuple(node.outputs[0].shape[i] for i in numbers.out_spec[2:])
    window = Window(
        strides=tuple(a["window_strides"]),
        padding=tuple((low, high) for low, high in a["padding"]),
        gaps=tuple(a["lhs_dilation"]),
        rhs_dilation=tuple(a["rhs_dilation"]),
        of_kernel=numbers.lhs_spec[1] == 0,
    )
    groups = a["feature_group_count"], a["batch_group_count"]
    plan = of_groups(x, kernel, sizes, window, groups, capabilities)
    if plan is None:
        return None
    name, conv = plan

    def run(x: Array, kernel: Array) -> Array:
        return conv(x.transpose(x_axes), kernel.transpose(kernel_axes)).transpose(
            y_axes
        )

    return name, run


def last(spec: Sequence[int]) -> Sizes:
    """The axes N, *spatial, C of an array with axes by `spec` (N, C, *spatial)."""
    return (spec[0], *spec[2:], spec[1])


def of_kernel(spec: Sequence[int]) -> Sizes:
    """The axes *window, I, O of a kernel with axes by `spec` (O, I, *window)."""
    return (*spec[2:], spec[1], spec[0])
