"""Convolutions over an input with gaps, and the windows of a convolution."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from caffe2flax.ops.convolution import pad_spatial


def transposed_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """Convolution over x (N, *spatial, C) with lhs_dilation - 1 zeros between pixels.

    kernel is (*window, C / groups, out), strides are 1. On CPU the zeros are passed
    over, 10 to 10000 times faster there.
    """
    dtype = options.get("preferred_element_type") or x.dtype

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            **options,
        )

    def interleaved(x: Array, kernel: Array) -> Array:
        wide = np.promote_types(dtype, np.float32)
        gaps = [(0, 0, d - 1) for d in rhs_dilation]
        kernel = lax.pad(
            kernel.astype(wide), jnp.zeros((), wide), [*gaps, (0, 0, 0), (0, 0, 0)]
        )
        groups = feature_group_count
        y = interleaved_conv(x.astype(wide), kernel, padding, lhs_dilation, groups)
        return y.astype(dtype)

    y: Array = lax.platform_dependent(x, kernel, cpu=interleaved, default=native)
    return y


def interleaved_conv(
    x: Array,
    kernel: Array,
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """y[s * m + r] = sum over a of x[m - a] * w[s * a + r], r < s = dilation.

    w is the kernel turned around, with zeros up to a multiple of s.
    """
    rank, size, extent = len(dilation), x.shape[1:-1], kernel.shape[:-2]
    reach = [-(-e // s) for e, s in zip(extent, dilation, strict=True)]
    fill = [(0, q * s - e) for q, s, e in zip(reach, dilation, extent, strict=True)]
    w = jnp.pad(jnp.flip(kernel, range(rank)), [*fill, (0, 0), (0, 0)])
    factors = [n for pair in zip(reach, dilation, strict=True) for n in pair]
    w = w.reshape(*factors, kernel.shape[-2], groups, kernel.shape[-1] // groups)
    w = jnp.moveaxis(w, range(0, 2 * rank, 2), range(rank))
    w = w.reshape(math.prod(reach), math.prod(dilation), *w.shape[2 * rank :])

    steps = [n + q - 1 for n, q in zip(size, reach, strict=True)]
    x = jnp.pad(x, [(0, 0), *((q - 1, q - 1) for q in reach), (0, 0)])
    terms = []
    for tap, back in zip(w, np.ndindex(*reach), strict=True):
        starts = [q - 1 - a for q, a in zip(reach, back, strict=True)]
        ends = [i + n for i, n in zip(starts, steps, strict=True)]
        cut = lax.slice(x, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]))
        rows = cut.reshape(x.shape[0], math.prod(steps), groups, kernel.shape[-2])
        if kernel.shape[-2] == 1:
            terms.append(rows[:, :, None] * tap[None, None, :, 0])
        else:
            terms.append(jnp.einsum("npgc,scgo->npsgo", rows, tap))
    y = sum(terms[1:], terms[0])
    y = y.reshape(x.shape[0], *steps, *dilation, kernel.shape[-1])
    y = jnp.moveaxis(y, range(1, 1 + rank), range(1, 1 + 2 * rank, 2))
    full = [n * s for n, s in zip(steps, dilation, strict=True)]
    y = y.reshape(x.shape[0], *full, kernel.shape[-1])
    ends = [
        low + high + (n - 1) * s + 2 - e
        for (low, high), n, s, e in zip(padding, size, dilation, extent, strict=True)
    ]
    cuts = [
        (low + 1 - e, end - n - (low + 1 - e), 0)
        for (low, _), end, n, e in zip(padding, ends, full, extent, strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *cuts, (0, 0, 0)])


def grouped_transpose_init(init: nnx.Initializer, groups: int) -> nnx.Initializer:
    """`init` of a kernel (*window, out / groups, in), turned around for a convolution
    in groups: (*window, in / groups, out)."""

    def rearranged(
        key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        *window, per_group, out = shape
        kernel = init(key, (*window, out // groups, per_group * groups), dtype)
        split = kernel.reshape(*window, out // groups, groups, per_group)
        swapped = jnp.flip(jnp.moveaxis(split, -1, -3), range(len(window)))
        return jnp.swapaxes(swapped, -1, -2).reshape(shape)

    return rearranged


def im2col(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: tuple[int, ...] = (),
) -> Array:
    """y[..., i, (c, w)] = x[..., i * stride + w * dilation - pad, c].

    x is (*batch, *spatial, C).
    """
    dilation = dilation or (1,) * len(window)
    batch = x.shape[: -len(window) - 1]
    x = x.reshape(math.prod(batch), *x.shape[len(batch) :])
    extent = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    x = pad_spatial(x, 0, extent, strides, padding)
    spans = [
        (size - e) // s * s + 1
        for size, e, s in zip(x.shape[1:-1], extent, strides, strict=True)
    ]
    cuts = []
    for offset in np.ndindex(*window):
        low = [o * d for o, d in zip(offset, dilation, strict=True)]
        high = [o + span for o, span in zip(low, spans, strict=True)]
        bounds = (0, *low, 0), (x.shape[0], *high, x.shape[-1])
        cuts.append(lax.slice(x, *bounds, (1, *strides, 1)))
    columns = jnp.stack(cuts, axis=-1)
    return columns.reshape(*batch, *columns.shape[1:-2], math.prod(columns.shape[-2:]))
