"""Plans how a convolution is computed whose kernel is an input: forward, or as the
gradient of an input or of a kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax import Array

from caffe2flax.cpu import derivatives, kernels, onednn
from caffe2flax.cpu.methods import LARGE_KERNEL, Capabilities, single

Sizes = tuple[int, ...]
Conv = Callable[[Array, Array], Array]
Plan = tuple[str, Conv]

MOST_IN_PATCHES = 2**21
"""The largest size of patches, in elements, for one product: larger ones leave the
processor's cache, and a product for each part of the window is faster."""

COLUMNS = 32
"""How many columns the patches of such a part have at least."""

MOST_GROUPS = 64
"""The most groups that are computed one after another."""


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input; gaps is lhs_dilation. of_kernel: it is
    the gradient of a kernel, whose input has channels as items."""

    strides: Sizes
    padding: tuple[tuple[int, int], ...]
    gaps: Sizes
    rhs_dilation: Sizes
    of_kernel: bool

    @property
    def plain(self) -> bool:
        """Whether each pixel has a neighbour and is a neighbour of each."""
        return max(*self.strides, *self.gaps) == 1


def of_groups(
    x: Sizes,
    kernel: Sizes,
    sizes: Sizes,
    window: Window,
    groups: tuple[int, int],
    can: Capabilities,
) -> Plan | None:
    """A plan for a convolution with (feature groups, batch groups)."""
    of_features, of_batch = groups
    if of_batch == x[0] == kernel[-1] > 8 and window.plain:
        return "sums for each tap", turned(
            derivatives.depthwise_kernel_gradient, window, sizes
        )
    if max(groups) == 1:
        return of_one(x, kernel, sizes, window, can)
    if of_features == x[-1] and kernel[-2] == 1 and of_features > 8:
        plan = functools.partial(depthwise, can=can)
        if max(window.gaps) == 1:
            return plan(x, kernel, window)
        if max(*window.strides, *window.rhs_dilation) > 1:
            return None
        return over_gaps(x, kernel, sizes, window, plan)
    if max(groups) > MOST_GROUPS:
        return None
    part = (*kernel[:-1], kernel[-1] // max(groups))
    if of_batch > 1:
        own = (x[0] // of_batch, *x[1:])
        name, conv = of_one(own, part, sizes, window, can) or by_xla(window)
        run: Conv = functools.partial(
            derivatives.in_batch_groups, groups=of_batch, conv=conv
        )
    else:
        own = (*x[:-1], x[-1] // of_features)
        name, conv = of_one(own, part, sizes, window, can) or by_xla(window)
        run = functools.partial(kernels.in_groups, groups=of_features, conv=conv)
    return f"groups apart, {name}", run


def by_xla(window: Window) -> Plan:
    """XLA's own, of one group."""
    run = functools.partial(
        kernels.native,
        strides=window.strides,
        padding=window.padding,
        lhs_dilation=window.gaps,
        rhs_dilation=window.rhs_dilation,
    )
    return "convolution by XLA", run


def of_one(
    x: Sizes, kernel: Sizes, sizes: Sizes, window: Window, can: Capabilities
) -> Plan | None:
    """A plan for a convolution with one group; None for XLA's own."""
    if window.of_kernel and window.plain:
        product = onednn.turned_product if can.turned else derivatives.turned_product
        by = " by oneDNN" if can.turned else ""
        taps, name, parts = math.prod(sizes), "product of patches", 1
        if taps == 1:
            name = "product of pixels"
        elif math.prod(kernel[:-1]) * x[0] * taps > MOST_IN_PATCHES:
            name, parts = "products of patches", max(1, taps * x[0] // COLUMNS)
            parts = min(parts, taps)
        gradient = functools.partial(derivatives.kernel_gradient, parts=parts)
        return name + by, turned(gradient, window, sizes, product=product)
    if max(window.gaps) > 1:
        if max(*window.strides, *window.rhs_dilation) > 1:
            return None
        conv = functools.partial(forward, can=can)
        return over_gaps(x, kernel, sizes, window, conv)
    return forward(x, kernel, window, can)


def turned(
    gradient: Callable[..., Array], window: Window, sizes: Sizes, **options: Any
) -> Conv:
    """conv(x, kernel) by the gradient of a kernel: x is (C, *in, N), kernel is
    (*out, N, O), the result (C, *sizes, O)."""

    def conv(x: Array, kernel: Array) -> Array:
        rank = x.ndim - 2
        y = gradient(
            x.transpose(rank + 1, *range(1, rank + 1), 0),
            kernel.transpose(rank, *range(rank), rank + 1),
            padding=window.padding,
            strides=window.rhs_dilation,
            window=sizes,
            **options,
        )
        return y.transpose(rank, *range(rank), rank + 1)

    return conv


def over_gaps(
    x: Sizes,
    kernel: Sizes,
    sizes: Sizes,
    window: Window,
    plan: Callable[[Sizes, Sizes, Window], Plan],
) -> Plan:
    """One convolution for each phase, planned by `plan`."""
    counts = [-(-n // s) for n, s in zip(sizes, window.gaps, strict=True)]
    ones = (1,) * len(sizes)
    convs: list[Conv | None] = []
    names = []
    for axes in derivatives.phases(window.padding, window.gaps):
        taps, pads = [], []
        each = zip(axes, kernel, window.gaps, counts, x[1:-1], strict=False)
        for (first, low), k, s, count, n in each:
            taps.append(len(range(first, k, s)))
            pads.append((low, count - 1 + taps[-1] - n - low))
        if 0 in taps:
            convs.append(None)
            continue
        own = Window(ones, tuple(pads), ones, ones, of_kernel=False)
        name, conv = plan(x, (*taps, *kernel[-2:]), own)
        names.append(name)
        convs.append(conv)
    run = functools.partial(
        derivatives.in_phases,
        padding=window.padding,
        gaps=window.gaps,
        sizes=sizes,
        convs=convs,
    )
    return f"in phases, {' and '.join(dict.fromkeys(names)) or 'zeros'}", run


def by_onednn(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (k, n)."""
    rows = x.reshape(-1, x.shape[-1])
    y = onednn.product(rows, kernel, biased=False, relu=False)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def of_pixels(x: Array, kernel: Array, *, strides: Sizes, product: Conv) -> Array:
    """A convolution with a window of 1, without padding."""
    x = kernels.strided(x, strides)
    return product(x, kernel.reshape(kernel.shape[-2:]))


def forward(x: Sizes, kernel: Sizes, window: Window, can: Capabilities) -> Plan:
    """One group, no gaps."""
    plain: dict[str, Any] = {"strides": window.strides, "padding": window.padding}
    if min(n for pair in window.padding for n in pair) < 0:
        return cropped(x, kernel, window, functools.partial(forward, can=can))
    if math.prod(kernel[:-2]) == 1 and np.any(window.padding):
        return padded(x, kernel, window, functools.partial(forward, can=can))
    taps, (channels, out) = kernel[:-2], kernel[-2:]
    rest = plain | {"rhs_dilation": window.rhs_dilation, "feature_group_count": 1}
    covers = taps == x[1:-1] and not np.any(window.padding)
    if max(window.rhs_dilation) == 1 and (math.prod(taps) == 1 or covers):
        fits = can.product and min(channels * math.prod(taps), out) >= 16
        product, by = (by_onednn, " by oneDNN") if fits else (kernels.dense, "")
        if covers:
            run: Conv = functools.partial(derivatives.covering, product=product)
            return "product" + by, run
        run = functools.partial(of_pixels, strides=window.strides, product=product)
        return "product of pixels" + by, run
    sizes = [
        (n + sum(pair) - (k - 1) * d - 1) // s + 1
        for n, pair, k, d, s in zip(
            x[1:-1],
            window.padding,
            taps,
            window.rhs_dilation,
            window.strides,
            strict=True,
        )
    ]
    pixels, weights = x[0] * math.prod(sizes), math.prod(kernel)
    large = channels >= 3 and out >= 8 and (pixels >= 100 or weights <= LARGE_KERNEL)
    if can.convolution and large and onednn.suits_conv(x, kernel, **rest):
        run = functools.partial(onednn.conv, biased=False, relu=False, **rest)
        return "convolution by oneDNN", run
    return single(x, kernel, plain, window.rhs_dilation)


def depthwise(x: Sizes, kernel: Sizes, window: Window, can: Capabilities) -> Plan:
    """A group for each channel, no gaps."""
    if min(n for pair in window.padding for n in pair) < 0:
        return cropped(x, kernel, window, functools.partial(depthwise, can=can))
    rest: dict[str, Any] = {
        "strides": window.strides,
        "padding": window.padding,
        "rhs_dilation": window.rhs_dilation,
    }
    return "shifted slices", functools.partial(kernels.depthwise, **rest)


def cropped(
    x: Sizes,
    kernel: Sizes,
    window: Window,
    plan: Callable[[Sizes, Sizes, Window], Plan],
) -> Plan:
    """`plan` for x without what a negative padding cuts off."""
    cuts = [(min(low, 0), min(high, 0)) for low, high in window.padding]
    rest = tuple((max(low, 0), max(high, 0)) for low, high in window.padding)
    return changed(x, kernel, window, plan, cuts, rest)


def padded(
    x: Sizes,
    kernel: Sizes,
    window: Window,
    plan: Callable[[Sizes, Sizes, Window], Plan],
) -> Plan:
    """`plan` for x with its padding."""
    none = ((0, 0),) * len(window.padding)
    return changed(x, kernel, window, plan, window.padding, none)


def changed(
    x: Sizes,
    kernel: Sizes,
    window: Window,
    plan: Callable[[Sizes, Sizes, Window], Plan],
    pads: Sequence[tuple[int, int]],
    rest: tuple[tuple[int, int], ...],
) -> Plan:
    """`plan` for x with `pads`, and a padding of `rest`."""
    sizes = [n + low + high for n, (low, high) in zip(x[1:-1], pads, strict=True)]
    own = replace(window, padding=rest)
    name, conv = plan((x[0], *sizes, x[-1]), kernel, own)
    return name, lambda x, kernel: conv(kernels.padded(x, pads, 0), kernel)
