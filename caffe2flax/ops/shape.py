"""Between Caffe's axis order and channels last."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array


def to_caffe_order(
    x: Array,
    axis: int,
    segments: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],
) -> Array:
    """The entries of `axis` in Caffe's order.

    Along it x is a concatenation of segments (dims, perm), each of Caffe's
    entries.reshape(dims).transpose(perm).ravel(): (((256, 6, 6), (1, 2, 0)),) takes
    rows in H, W, C order to C, H, W.

    Raises:
        ValueError: the segments do not add up to the axis.
    """
    axis = axis % x.ndim
    lengths = [math.prod(dims) for dims, _ in segments]
    if sum(lengths) != x.shape[axis]:
        raise ValueError(f"segments of {lengths} do not fill axis {axis} of {x.shape}")
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    starts = np.cumsum(lengths)[:-1].tolist()
    parts = []
    for part, (dims, perm) in zip(jnp.split(x, starts, axis), segments, strict=True):
        stored = part.reshape(*before, *(dims[p] for p in perm), *after)
        back = [axis + perm.index(i) for i in range(len(dims))]
        rest = range(axis + len(dims), stored.ndim)
        entries = stored.transpose(*range(axis), *back, *rest)
        parts.append(entries.reshape(*before, math.prod(dims), *after))
    return jnp.concatenate(parts, axis)
