"""Chooses how a convolution or a dense layer is computed on this CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from caffe2flax.cpu import kernels, memory, onednn, transposed, winograd
from caffe2flax.cpu.graph import Node, Value
from caffe2flax.cpu.probe import COLUMNS, ROWS

Run = Callable[..., Array]

LARGE_KERNEL = 2**18
"""The number of weights from which oneDNN's convolution, which reorders them at each
call, is slow for few pixels. Below it that convolution compiles fastest."""


@dataclass(frozen=True)
class Capabilities:
    """Which calls of oneDNN give the right numbers in this process, and whether
    Winograd's algorithm is used wherever it is faster at run time."""

    convolution: bool
    product: bool
    packed: bool
    turned: bool
    thorough: bool

    @classmethod
    def here(cls, thorough: bool) -> Capabilities:
        return cls(
            convolution=onednn.available("convolution"),
            product=onednn.available("product"),
            packed=onednn.available("packed"),
            turned=onednn.available("turned"),
            thorough=thorough,
        )


@dataclass(frozen=True)
class Method:
    """A function run(x, weights, *others), its name, and the weights in the form that
    it needs."""

    name: str
    run: Run
    weights: Value


def choose(node: Node, capabilities: Capabilities) -> None:
    """Chooses the method by which a layer is computed."""
    method = (convolution if node.op == "convolution" else dense)(node, capabilities)
    node.inputs[1], node.run, node.params = method.weights, method.run, {}
    node.steps = (*node.steps, method.name)


def dense(node: Node, capabilities: Capabilities) -> Method:
    x, kernel, *_ = node.inputs
    relu, biased = node.params["relu"], node.params["biased"]
    rows, out = math.prod(x.shape[:-1]), kernel.shape[-1]
    if capabilities.packed and rows > 1 and out > 1:
        run = functools.partial(packed_dense, out=out, biased=biased, relu=relu)
        return Method("packed product", run, packed(kernel))
    if capabilities.product and rows > 1:
        run = functools.partial(onednn_dense, biased=biased, relu=relu)
        return Method("product by oneDNN", run, kernel)
    name = "product in pieces" if rows == 1 else "product"
    return Method(name, ended(kernels.dense, relu), kernel)


def convolution(node: Node, capabilities: Capabilities) -> Method:
    x, kernel, *_ = node.inputs
    p = node.params
    window, out = kernel.shape[:-2], kernel.shape[-1]
    relu, biased, groups = p["relu"], p["biased"], p["feature_group_count"]
    plain = {"strides": p["strides"], "padding": p["padding"]}
    if max(p["lhs_dilation"]) > 1:
        return over_gaps(node)
    sizes = node.outputs[0].shape[1:-1]
    pixels, weights = x.shape[0] * math.prod(sizes), math.prod(kernel.shape)
    simple = groups == 1 and max(p["rhs_dilation"]) == 1
    whole = math.prod(window) == 1 and not np.any(p["padding"])
    few = pixels <= 128 and weights > LARGE_KERNEL
    if simple and pixels > 1 and (whole or few):
        if capabilities.packed and out > 1:
            one = {"out": out, "biased": biased, "relu": relu}
            if whole:
                run = functools.partial(packed_pixels, strides=p["strides"], **one)
                return Method("packed product of pixels", run, packed(kernel))
            run = functools.partial(packed_patches, window=window, **plain, **one)
            return Method("packed product of patches", run, packed(kernel))
        if capabilities.product and whole:
            one = {"biased": biased, "relu": relu}
            run = functools.partial(onednn_pixels, strides=p["strides"], **one)
            return Method("product of pixels by oneDNN", run, kernel)
    if simple and len(window) == 2 and max(p["strides"]) == 1:
        tile = winograd.tile_size(
            x.shape, kernel.shape, p["padding"], thorough=capabilities.thorough
        )
        if tile:
            return in_tiles(node, tile, capabilities)
    rest = plain | {
        "rhs_dilation": p["rhs_dilation"],
        "feature_group_count": groups,
    }
    worth = capabilities.convolution and pays(x, groups, pixels, weights)
    if worth and onednn.suits_conv(x.shape, kernel.shape, **rest):
        run = functools.partial(onednn.conv, biased=biased, relu=relu, **rest)
        return Method("convolution by oneDNN", run, kernel)
    return by_xla(node)


def pays(x: Value, groups: int, pixels: int, weights: int) -> bool:
    """Whether oneDNN computes a convolution faster than XLA: not where large kernels
    are read for few pixels, nor where each channel has less work than it takes to start
    another core."""
    if 1 < groups == x.shape[-1] and math.prod(x.shape) < 2**18:
        return False
    return pixels >= 100 or weights <= LARGE_KERNEL


def in_tiles(node: Node, tile: int, capabilities: Capabilities) -> Method:
    """By Winograd's algorithm."""
    kernel, p = node.inputs[1], node.params
    products = onednn.products if capabilities.product else winograd.separate_products
    run = functools.partial(
        winograd.tiled_conv,
        window=kernel.shape[0],
        padding=p["padding"],
        finish=functools.partial(kernels.finish, relu=p["relu"]),
        products=products,
    )
    shape = (tile, tile, *kernel.shape[2:])
    make = functools.partial(winograd.tiled_kernel, tile=tile)
    weights = prepared(kernel, shape, make, ("tiles", tile))
    return Method(f"Winograd, tiles of {tile}", run, weights)


def over_gaps(node: Node) -> Method:
    """A transposed convolution."""
    _, kernel, *_ = node.inputs
    p = node.params
    window, groups = kernel.shape[:-2], p["feature_group_count"]
    if max(p["strides"]) > 1:
        names = ("strides", "padding", "lhs_dilation", "rhs_dilation")
        given = {name: p[name] for name in (*names, "feature_group_count")}
        run = functools.partial(kernels.native, **given)
        return Method("convolution by XLA", ended(run, p["relu"]), kernel)
    extent = transposed.extents(window, p["rhs_dilation"])
    dilation = p["lhs_dilation"]
    run = functools.partial(
        transposed.interleaved_conv,
        extent=extent,
        padding=p["padding"],
        lhs_dilation=dilation,
    )
    reach = [-(-e // s) for e, s in zip(extent, dilation, strict=True)]
    channels, out = kernel.shape[-2:]
    shape = (*reach, math.prod(dilation), channels, groups, out // groups)
    rest = (dilation, p["rhs_dilation"], groups)

    def make(kernel: np.ndarray) -> np.ndarray:
        return transposed.taps(kernel, *rest)

    weights = prepared(kernel, shape, make, ("taps", *rest))
    return Method("gaps passed over", ended(run, p["relu"]), weights)


def by_xla(node: Node) -> Method:
    """In public JAX only."""
    x, kernel, *_ = node.inputs
    p, relu = node.params, node.params["relu"]
    groups, dilation = p["feature_group_count"], p["rhs_dilation"]
    plain = {"strides": p["strides"], "padding": p["padding"]}
    channels = kernel.shape[-2]
    if groups == 1:
        name, conv = single(x.shape, kernel.shape, plain, dilation)
        return Method(name, ended(conv, relu), kernel)
    if channels == 1:
        run = functools.partial(kernels.depthwise, rhs_dilation=dilation, **plain)
        return Method("shifted slices", ended(run, relu), kernel)
    most = max(1, 32 // channels) if groups > 4 else 1
    merged = max(m for m in range(1, most + 1) if groups % m == 0)
    parts, per_part = groups // merged, x.shape[-1] // (groups // merged)
    weights = kernel
    shape = (*kernel.shape[:-2], merged * channels, kernel.shape[-1])
    if merged > 1:
        make = functools.partial(kernels.merged_kernel, groups=groups, merged=merged)
        weights = prepared(kernel, shape, make, ("merged", groups, merged))
    name, conv = single(
        (*x.shape[:-1], per_part),
        (*shape[:-1], shape[-1] // parts),
        plain,
        dilation,
    )
    if parts > 1:
        conv = functools.partial(kernels.in_groups, groups=parts, conv=conv)
    merging = f"{merged} groups in one, " if merged > 1 else ""
    return Method(f"{merging}groups apart, {name}", ended(conv, relu), weights)


def single(
    x: tuple[int, ...],
    kernel: tuple[int, ...],
    plain: dict[str, Any],
    dilation: tuple[int, ...],
) -> tuple[str, Run]:
    """The name and the function of a convolution without groups, in public JAX only,
    chosen by the shapes."""
    window, (channels, out) = kernel[:-2], kernel[-2:]
    strides = plain["strides"]
    if max(dilation) > 1:
        run = functools.partial(kernels.native, rhs_dilation=dilation, **plain)
        return "convolution by XLA", run
    if math.prod(window) == 1 and not np.any(plain["padding"]):
        return "product of pixels", functools.partial(
            kernels.pointwise, strides=strides
        )
    if len(window) == 2 and channels <= 4 and 1 < min(strides) > window[0] / 3:
        return "rows", functools.partial(kernels.row_conv, **plain)
    if math.prod(x[:-1]) <= 100 * math.prod(strides):
        return "patches", functools.partial(kernels.patch_conv, **plain)
    if len(window) == 2 and channels > 4 and (out <= 64 or x[1] <= 14):
        return "wide", functools.partial(kernels.wide_conv, **plain)
    return "convolution by XLA", functools.partial(kernels.native, **plain)


def ended(conv: Run, relu: bool) -> Run:
    """conv(x, kernel) plus others, and with `relu` max(that, 0), as one function."""

    def run(x: Array, kernel: Array, *others: Array) -> Array:
        return kernels.finish(conv(x, kernel), *others, relu=relu)

    return run


def prepared(
    kernel: Value,
    shape: tuple[int, ...],
    make: Callable[[np.ndarray], np.ndarray],
    how: Hashable,
) -> Value:
    """The kernel in another form."""

    def compute() -> np.ndarray:
        prepared_kernel = make(np.asarray(kernel.constant, np.float32))
        kernel.forget()
        return prepared_kernel

    return Value(shape, kernel.dtype, compute, (how, kernel.key))


def packed(kernel: Value) -> Value:
    """The matrix of a kernel, a row for each input, in oneDNN's order."""

    def make(kernel: np.ndarray) -> np.ndarray:
        return onednn.pack(kernel.reshape(-1, kernel.shape[-1]), memory.empty)

    rows, out = math.prod(kernel.shape[:-1]), kernel.shape[-1]
    wide = -(-rows // ROWS) * ROWS * -(-out // COLUMNS)
    return prepared(kernel, (wide * COLUMNS,), make, "packed")


def packed_dense(x: Array, *arrays: Array, out: int, **params: Any) -> Array:
    rows = x.reshape(-1, x.shape[-1])
    weights, *others = arrays
    added = [other.reshape(-1, out) if other.ndim > 1 else other for other in others]
    y = onednn.packed_product(rows, weights, *added, out=out, **params)
    return y.reshape(*x.shape[:-1], out)


def packed_pixels(x: Array, *arrays: Array, strides: Any, **params: Any) -> Array:
    return packed_dense(kernels.strided(x, strides), *arrays, **params)


def packed_patches(
    x: Array, *arrays: Array, window: Any, strides: Any, padding: Any, **params: Any
) -> Array:
    rows = kernels.patches(x, window, strides=strides, padding=padding)
    return packed_dense(rows, *arrays, **params)


def onednn_dense(x: Array, kernel: Array, *others: Array, **params: Any) -> Array:
    out = kernel.shape[-1]
    matrix = kernel.reshape(-1, out)
    added = [other.reshape(-1, out) if other.ndim > 1 else other for other in others]
    y = onednn.product(x.reshape(-1, x.shape[-1]), matrix, *added, **params)
    return y.reshape(*x.shape[:-1], out)


def onednn_pixels(x: Array, *arrays: Array, strides: Any, **params: Any) -> Array:
    return onednn_dense(kernels.strided(x, strides), *arrays, **params)
