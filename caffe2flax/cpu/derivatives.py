"""Functions that compute derivatives of convolutions and of maxima on a CPU.

x is (N, *spatial, C), kernel is (*window, C / groups, out), padding is a pair of any
sign for each spatial axis. All is float32.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.cpu import kernels

Sizes = Sequence[int]
Pads = Sequence[tuple[int, int]]
Conv = Callable[[Array, Array], Array]
Product = Callable[[Array, Array], Array]


def phases(padding: Pads, gaps: Sizes) -> list[tuple[tuple[int, int], ...]]:
    """For each phase of a result, in row-major order, and each axis: the first tap of
    the kernel that meets pixels and not the gaps between them, and the padding before
    the pixels."""
    found = []
    for phase in np.ndindex(*gaps):
        axes = []
        for p, s, (low, _) in zip(phase, gaps, padding, strict=True):
            first = (low - p) % s
            axes.append((first, (low - p - first) // s))
        found.append(tuple(axes))
    return found


def in_phases(
    x: Array,
    kernel: Array,
    *,
    padding: Pads,
    gaps: Sizes,
    sizes: Sizes,
    convs: Sequence[Conv | None],
) -> Array:
    """A convolution over x with its pixels `gaps` apart and a result of `sizes`: one
    without gaps for each phase, by `convs`, whose results are interleaved. None stands
    for a phase that no tap of the kernel reaches."""
    counts = [-(-n // s) for n, s in zip(sizes, gaps, strict=True)]
    parts = []
    for axes, conv in zip(phases(padding, gaps), convs, strict=True):
        if conv is None:
            shape = (x.shape[0], *counts, kernel.shape[-1])
            parts.append(jnp.zeros(shape, x.dtype))
            continue
        steps = zip(axes, gaps, strict=True)
        taps = tuple(slice(first, None, s) for (first, _), s in steps)
        parts.append(conv(x, kernel[taps]))
    return interleaved(parts, range(1, 1 + len(sizes)), gaps, sizes)


def interleaved(
    parts: Sequence[Array], axes: Sequence[int], steps: Sizes, sizes: Sizes
) -> Array:
    """y with y[i * s + p] = parts[p][i] along each of `axes`, the first `sizes` of
    them. parts has one entry for each p, in row-major order."""
    if len(parts) == 1:
        y = parts[0]
    else:
        shape, rank = parts[0].shape, len(axes)
        stacked = jnp.stack(parts).reshape(*steps, *shape)
        order: list[int] = []
        for axis in range(len(shape)):
            order.append(rank + axis)
            if axis in axes:
                order.append(list(axes).index(axis))
        wide = list(shape)
        for axis, s in zip(axes, steps, strict=True):
            wide[axis] *= s
        y = stacked.transpose(order).reshape(wide)
    ends = list(y.shape)
    for axis, n in zip(axes, sizes, strict=True):
        ends[axis] = n
    result: Array = lax.slice(y, (0,) * y.ndim, ends)
    return result


def windows_of(
    x: Array, window: Sizes, padding: Pads, strides: Sizes, sizes: Sizes
) -> list[Array]:
    """For every w in the window, x[:, i * stride + w - low] over the `sizes` of i."""
    need = [w + (n - 1) * s for w, n, s in zip(window, sizes, strides, strict=True)]
    pads = [
        (low, m - n - low)
        for (low, _), m, n in zip(padding, need, x.shape[1:-1], strict=True)
    ]
    x = kernels.padded(x, pads, 0)
    return kernels.windows(x, window, strides, (1,) * len(window))


def kernel_gradient(
    x: Array,
    g: Array,
    *,
    padding: Pads,
    strides: Sizes,
    window: Sizes,
    product: Product,
    parts: int = 1,
) -> Array:
    """Of a convolution of x (N, *in, C) whose result has the gradient g (N, *out, O),
    that of its kernel (*window, C, O): products of patches, as many as `parts`, each
    for some of the window. product(a (m, k), b (m, n)) is a.T @ b."""
    cuts = windows_of(x, window, padding, strides, g.shape[1:-1])
    ends = [i * len(cuts) // parts for i in range(parts + 1)]
    given, found = g.reshape(-1, g.shape[-1]), []
    for some in (cuts[a:b] for a, b in itertools.pairwise(ends)):
        rows = jnp.concatenate(some, -1) if len(some) > 1 else some[0]
        found.append(product(rows.reshape(-1, rows.shape[-1]), given))
    y = jnp.concatenate(found) if parts > 1 else found[0]
    return y.reshape(*window, x.shape[-1], g.shape[-1])


def depthwise_kernel_gradient(
    x: Array, g: Array, *, padding: Pads, strides: Sizes, window: Sizes
) -> Array:
    """The same with a group for each of the channels of x and g: (*window, 1, C)."""
    cuts = windows_of(x, window, padding, strides, g.shape[1:-1])
    taps = jnp.stack([(cut * g).sum(range(x.ndim - 1)) for cut in cuts])
    return taps.reshape(*window, 1, x.shape[-1])


def turned_product(x: Array, y: Array) -> Array:
    """x.T @ y, in public JAX only."""
    result: Array = lax.dot_general(x, y, (((0,), (0,)), ((), ())))
    return result


def covering(x: Array, kernel: Array, product: Product) -> Array:
    """A convolution whose window covers all of x: one product."""
    rows = product(x.reshape(x.shape[0], -1), kernel.reshape(-1, kernel.shape[-1]))
    return rows.reshape(x.shape[0], *(1,) * (x.ndim - 2), kernel.shape[-1])


def in_batch_groups(x: Array, kernel: Array, *, groups: int, conv: Conv) -> Array:
    """`conv` of each part of the batch with each part of the kernel's outputs; the
    results are concatenated along the channels."""
    parts = jnp.split(x, groups, axis=0), jnp.split(kernel, groups, axis=-1)
    return jnp.concatenate(list(map(conv, *parts)), axis=-1)


def to_first_maximum(
    g: Array, x: Array, *, size: Sizes, strides: Sizes, padding: Pads
) -> Array:
    """Of the maxima of windows over x, whose gradient is g, that of x: each window
    gives to its first maximum. size, strides and padding have an entry for each axis.
    """
    wide = x
    if np.any(padding):
        wide = lax.pad(
            x, np.float32(-np.inf), [(low, high, 0) for low, high in padding]
        )
    axes = [i for i, n in enumerate(size) if n > 1 or strides[i] > 1]
    spans = [(n - 1) * s + 1 for n, s in zip(g.shape, strides, strict=True)]
    offsets = list(np.ndindex(*(size[i] for i in axes)))

    def along(numbers: Sizes) -> list[int]:
        """`numbers` at `axes`, 0 at the others."""
        full = [0] * x.ndim
        for axis, number in zip(axes, numbers, strict=True):
            full[axis] = number
        return full

    def cut(offset: Sizes) -> Array:
        start = along(offset)
        ends = [low + n for low, n in zip(start, spans, strict=True)]
        part: Array = lax.slice(wide, start, ends, strides)
        return part

    best = functools.reduce(jnp.maximum, map(cut, offsets))
    taken, given = None, {}
    for offset in offsets:
        here = cut(offset) == best
        first = here if taken is None else here & ~taken
        taken = here if taken is None else taken | here
        given[offset] = jnp.where(first, g, np.float32(0))
    steps = [strides[i] for i in axes]
    counts = [-(-wide.shape[i] // strides[i]) for i in axes]

    def phase(own: Sizes) -> Array:
        """The sum of what the pixels i * stride + own are given."""
        total: Array | None = None
        for offset, part in given.items():
            moved = zip(offset, steps, own, strict=True)
            if any(o % s != p for o, s, p in moved):
                continue
            low = along([o // s for o, s in zip(offset, steps, strict=True)])
            full = along(counts)
            pads = [
                (low[i], full[i] - g.shape[i] - low[i], 0) if i in axes else (0, 0, 0)
                for i in range(x.ndim)
            ]
            term: Array = lax.pad(part, np.float32(0), pads)
            total = term if total is None else total + term
        if total is not None:
            return total
        shape = list(g.shape)
        for axis, count in zip(axes, counts, strict=True):
            shape[axis] = count
        return jnp.zeros(shape, g.dtype)

    parts = [phase(own) for own in np.ndindex(*steps)]
    y = interleaved(parts, axes, steps, [wide.shape[i] for i in axes])
    start = [low for low, _ in padding]
    ends = [low + n for low, n in zip(start, x.shape, strict=True)]
    result: Array = lax.slice(y, start, ends)
    return result
