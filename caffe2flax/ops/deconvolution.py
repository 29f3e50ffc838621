"""The kernels of convolutions in groups turned around, and their windows."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from caffe2flax.ops.window import pad_spatial


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
