"""Functions that compute a convolution or a product on a CPU, in public JAX only.

x is (N, *spatial, C), kernel is (*window, C / groups, out), padding is a pair for each
spatial axis. All is float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Sizes = Sequence[int]
Pads = Sequence[tuple[int, int]]


def finish(y: Array, *others: Array, relu: bool) -> Array:
    """y + others, whose axes are the last ones of y; with `relu`, max(that, 0)."""
    for other in others:
        y = y + other.reshape((1,) * (y.ndim - other.ndim) + other.shape)
    return jnp.maximum(y, np.float32(0)) if relu else y


def native(
    x: Array, kernel: Array, *, strides: Sizes, padding: Pads, **options: Any
) -> Array:
    """By XLA's own convolution; options are those of `lax.conv_general_dilated`."""
    rank = x.ndim - 2
    last = (0, rank + 1, *range(1, rank + 1))
    numbers = lax.ConvDimensionNumbers(last, (rank + 1, rank, *range(rank)), last)
    y: Array = lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **options
    )
    return y


def depthwise(
    x: Array,
    kernel: Array,
    *,
    strides: Sizes,
    padding: Pads,
    rhs_dilation: Sizes,
) -> Array:
    """y[n, i, o] = sum over w of x[n, i * stride + w - pad, o // m] * kernel[w, 0, o]:
    a sum of shifted slices. kernel is (*window, 1, C * m)."""
    out = kernel.shape[-1]
    x = jnp.repeat(padded(x, padding, 0), out // x.shape[-1], axis=-1)
    taps = kernel.reshape(-1, *(1,) * (x.ndim - 1), out)
    cuts = windows(x, kernel.shape[:-2], strides, rhs_dilation)
    terms = [cut * tap for cut, tap in zip(cuts, taps, strict=True)]
    y: Array = sum(terms[1:], terms[0])
    return y


def in_groups(x: Array, kernel: Array, *, groups: int, conv: Any) -> Array:
    """A convolution for each group, `conv(x, kernel)`."""
    channels, kernels = (jnp.split(array, groups, axis=-1) for array in (x, kernel))
    return jnp.concatenate(list(map(conv, channels, kernels)), axis=-1)


def merged_kernel(kernel: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """The kernel (*window, merged * C / groups, out) of groups / merged larger groups.
    Each of these is `merged` of the old ones, with zeros between them."""
    *window, channels, out = kernel.shape
    wide = np.zeros(
        (*window, merged, channels, groups // merged, merged, out // groups),
        np.float32,
    )
    each = kernel.reshape(*window, channels, groups // merged, merged, out // groups)
    for own in range(merged):
        wide[..., own, :, :, own, :] = each[..., own, :]
    return wide.reshape(*window, merged * channels, out)


def pointwise(x: Array, kernel: Array, *, strides: Sizes) -> Array:
    """A convolution with a window of 1 and no padding: one product of matrices."""
    x = strided(x, strides)
    return dense(x, kernel.reshape(kernel.shape[-2:]))


def strided(x: Array, strides: Sizes) -> Array:
    """Every stride-th pixel along each axis."""
    return x[:, *(slice(None, None, stride) for stride in strides)]


def patches(x: Array, window: Sizes, *, strides: Sizes, padding: Pads) -> Array:
    """The window of each pixel as a row: (N, *spatial, prod(window) * C)."""
    x = padded(x, padding, 0)
    for axis in range(len(window), 0, -1):
        cuts = slices(x, window[axis - 1], strides[axis - 1], axis)
        x = jnp.concatenate(cuts, axis=-1)
    return x


def patch_conv(x: Array, kernel: Array, *, strides: Sizes, padding: Pads) -> Array:
    """A convolution as one product of matrices, with the window of each pixel as a
    row."""
    rows = patches(x, kernel.shape[:-2], strides=strides, padding=padding)
    return dense(rows, kernel.reshape(-1, kernel.shape[-1]))


def row_conv(x: Array, kernel: Array, *, strides: Sizes, padding: Pads) -> Array:
    """A convolution over two axes, as one over the second axis, with the windows of the
    first axis as channels."""
    height, width, channels, out = kernel.shape
    x = padded(x, padding, 0)
    rows = jnp.concatenate(slices(x, height, strides[0], 1), axis=-1)
    y = native(
        rows.reshape(-1, *rows.shape[2:]),
        kernel.swapaxes(0, 1).reshape(width, height * channels, out),
        strides=strides[1:],
        padding=[(0, 0)],
    )
    return y.reshape(*rows.shape[:2], *y.shape[1:])


def wide_conv(x: Array, kernel: Array, *, strides: Sizes, padding: Pads) -> Array:
    """A convolution over two axes, with a y that is wider than x, which is then cut.
    XLA has two libraries for convolutions on CPU; only for such a y it uses the one
    that is faster for few outputs or pixels."""
    rows, (left, right) = padding
    same = max(strides) == 1 and left + right == kernel.shape[1] - 1
    pads = (rows, (left, right + same))
    y = native(x, kernel, strides=strides, padding=pads)
    return y[:, :, : x.shape[2]] if same else y


def dense(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (k, n). A single row is multiplied in pieces of 64 to 200
    elements and the products are added: XLA reads the kernel 1.2 to 1.5 times as
    fast."""
    size, out = kernel.shape
    fitting = [n for n in range(64, 201) if size % n == 0]
    if math.prod(x.shape[:-1]) != 1 or not fitting:
        y: Array = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        return y
    length = min(fitting, key=lambda n: abs(n - 128))
    rows, pieces = x.reshape(-1, length), kernel.reshape(-1, length, out)
    products = lax.dot_general(rows, pieces, (((1,), (1,)), ((0,), (0,))))
    return products.sum(0).reshape(*x.shape[:-1], out)


def padded(x: Array, padding: Pads, value: float) -> Array:
    pads = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(x, np.float32(value), pads) if np.any(pads) else x


def slices(x: Array, window: int, stride: int, axis: int) -> list[Array]:
    """For every w in the window, x[i * stride + w] over all i of an axis."""
    span = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, w, w + span, stride, axis) for w in range(window)]


def windows(x: Array, window: Sizes, strides: Sizes, dilation: Sizes) -> list[Array]:
    """For every w in the window, x[:, i * stride + w * dilation] over all i."""
    sizes = zip(x.shape[1:-1], window, strides, dilation, strict=True)
    spans = [(n - (w - 1) * d - 1) // s * s + 1 for n, w, s, d in sizes]
    cuts = []
    for offset in np.ndindex(*window):
        low = [o * d for o, d in zip(offset, dilation, strict=True)]
        high = [start + span for start, span in zip(low, spans, strict=True)]
        bounds = (0, *low, 0), (x.shape[0], *high, x.shape[-1])
        cuts.append(lax.slice(x, *bounds, (1, *strides, 1)))
    return cuts


def combined_windows(
    x: Array, *, size: Sizes, strides: Sizes, padding: Pads, largest: bool
) -> Array:
    """The maximum or the sum of each window, axis by axis, with a padding of -inf or 0.
    size, strides and padding have an entry for each axis of x."""
    combine = jnp.maximum if largest else jnp.add
    if np.any(padding):
        pads = [(low, high, 0) for low, high in padding]
        x = lax.pad(x, np.float32(-np.inf if largest else 0), pads)
    for axis in range(x.ndim - 1, -1, -1):
        if size[axis] == 1 == strides[axis]:
            continue
        if size[axis] == x.shape[axis]:
            x = (x.max if largest else x.sum)(axis, keepdims=True)
        else:
            parts = slices(x, size[axis], strides[axis], axis)
            x = functools.reduce(combine, parts)
    return x


def inverse_power(y: Array) -> Array:
    """y^-0.75 by roots, which XLA computes five times as fast."""
    root = lax.rsqrt(y)
    return root * jnp.sqrt(root)


def steeper_power(y: Array) -> Array:
    """y^-1.75 by roots."""
    return inverse_power(y) / y
