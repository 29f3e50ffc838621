"""Convolutions over a dilated input, without multiplying the zeros, as XLA does."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Sizes = Sequence[int]


def taps(
    kernel: np.ndarray, lhs_dilation: Sizes, rhs_dilation: Sizes, groups: int
) -> np.ndarray:
    """The kernel (*window, C / groups, out) for `interleaved_conv`: reversed, with
    zeros up to a multiple of s = lhs_dilation, (*reach, prod(s), C / groups, groups,
    out / groups)."""
    *window, channels, out = kernel.shape
    extent = extents(window, rhs_dilation)
    reach = [-(-e // s) for e, s in zip(extent, lhs_dilation, strict=True)]
    full = [q * s for q, s in zip(reach, lhs_dilation, strict=True)]
    wide = np.zeros((*full, channels, out), np.float32)
    places = [slice(0, e, d) for e, d in zip(extent, rhs_dilation, strict=True)]
    wide[tuple(places)] = np.flip(kernel, tuple(range(len(window))))
    factors = [n for pair in zip(reach, lhs_dilation, strict=True) for n in pair]
    wide = wide.reshape(*factors, channels, groups, out // groups)
    wide = np.moveaxis(wide, range(0, 2 * len(window), 2), range(len(window)))
    return wide.reshape(*reach, math.prod(lhs_dilation), *wide.shape[-3:])


def extents(window: Sizes, dilation: Sizes) -> list[int]:
    """The extents of windows with dilation."""
    return [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]


def interleaved_conv(
    x: Array,
    kernel: Array,
    *,
    extent: Sizes,
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sizes,
) -> Array:
    """y[s * m + r] = sum over a of x[m - a] * w[s * a + r], r < s = lhs_dilation.

    x is (N, *spatial, C) before dilation, kernel is the result of `taps`.
    """
    rank, size = len(extent), x.shape[1:-1]
    reach, (channels, groups, out) = kernel.shape[:rank], kernel.shape[rank + 1 :]
    steps = [n + q - 1 for n, q in zip(size, reach, strict=True)]
    x = jnp.pad(x, [(0, 0), *((q - 1, q - 1) for q in reach), (0, 0)])
    terms = []
    for back in np.ndindex(*reach):
        tap = kernel[back]
        starts = [q - 1 - a for q, a in zip(reach, back, strict=True)]
        ends = [i + n for i, n in zip(starts, steps, strict=True)]
        cut = lax.slice(x, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]))
        rows = cut.reshape(x.shape[0], math.prod(steps), groups, channels)
        if channels == 1:
            terms.append(rows[:, :, None] * tap[None, None, :, 0])
        else:
            terms.append(jnp.einsum("npgc,scgo->npsgo", rows, tap))
    y = functools.reduce(lax.add, terms)
    y = y.reshape(x.shape[0], *steps, *lhs_dilation, groups * out)
    y = jnp.moveaxis(y, range(1, 1 + rank), range(1, 1 + 2 * rank, 2))
    full = [n * s for n, s in zip(steps, lhs_dilation, strict=True)]
    y = y.reshape(x.shape[0], *full, groups * out)
    ends = [
        low + high + (n - 1) * s + 2 - e
        for (low, high), n, s, e in zip(
            padding, size, lhs_dilation, extent, strict=True
        )
    ]
    cuts = [
        (low + 1 - e, end - n - (low + 1 - e), 0)
        for (low, _), end, n, e in zip(padding, ends, full, extent, strict=True)
    ]
    return lax.pad(y, np.float32(0), [(0, 0, 0), *cuts, (0, 0, 0)])
