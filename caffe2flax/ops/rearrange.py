"""Pixels and channels in other places."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax


def shuffle_channels(x: Array, groups: int, axis: int = -1) -> Array:
    """Entry j * groups + i of `axis` is entry i * (size / groups) + j of x."""
    axis = axis % x.ndim
    split = x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])
    return jnp.swapaxes(split, axis, axis + 1).reshape(x.shape)


def depth_to_space(x: Array, block: int, channel_first: bool = False) -> Array:
    """x (N, H, W, C) as (N, H * block, W * block, C / block ** 2).

    The channels of x count row, column, channel of a block, or channel, row, column.
    """
    n, h, w, c = x.shape
    if channel_first:
        split = x.reshape(n, h, w, c // block**2, block, block)
        split = split.transpose(0, 1, 4, 2, 5, 3)
    else:
        split = x.reshape(n, h, w, block, block, c // block**2)
        split = split.transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(n, h * block, w * block, c // block**2)


def space_to_depth(x: Array, block: int) -> Array:
    """x (N, H, W, C) as (N, H / block, W / block, C * block ** 2), whose channels count
    row, column, channel of a block."""
    n, h, w, c = x.shape
    split = x.reshape(n, h // block, block, w // block, block, c)
    split = split.transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(n, h // block, w // block, c * block**2)


def reorganize(x: Array, stride: int) -> Array:
    """x (N, C, H, W) as (N, C * stride ** 2, H / stride, W / stride), as Darknet does.

    The numbers of x are read as (C / stride ** 2, H * stride, W * stride), and each
    offset in a block of that gives images of its own.
    """
    n, c, h, w = x.shape
    area = stride**2
    blocks = x.reshape(n, c // area, h, stride, w, stride)
    images = blocks.transpose(0, 3, 5, 1, 2, 4)
    return images.reshape(n, c * area, h // stride, w // stride)


def space_to_batch(
    x: Array, block: Sequence[int], pads: Sequence[tuple[int, int]]
) -> Array:
    """x (N, *spatial, ...) between zeros as (prod(block) * N, *spatial / block, ...).

    The entries of each block go to images of their own.
    """
    count = len(block)
    rest = [(0, 0)] * (x.ndim - count - 1)
    x = jnp.pad(x, [(0, 0), *pads, *rest])
    dims = [x.shape[0]]
    for size, b in zip(x.shape[1:], block, strict=False):
        dims += [size // b, b]
    split = x.reshape(*dims, *x.shape[count + 1 :])
    inner = range(2, 2 * count + 1, 2)
    outer = range(1, 2 * count, 2)
    split = split.transpose(*inner, 0, *outer, *range(2 * count + 1, split.ndim))
    return split.reshape(-1, *dims[1::2], *x.shape[count + 1 :])


def batch_to_space(
    x: Array, block: Sequence[int], crops: Sequence[tuple[int, int]]
) -> Array:
    """Undoes `space_to_batch`, but for the entries that `crops` takes off each end."""
    count = len(block)
    split = x.reshape(*block, -1, *x.shape[1:])
    order = [count]
    for i in range(count):
        order += [count + 1 + i, i]
    split = split.transpose(*order, *range(2 * count + 1, split.ndim))
    sizes = [size * b for size, b in zip(x.shape[1:], block, strict=False)]
    y = split.reshape(split.shape[0], *sizes, *x.shape[count + 1 :])
    for axis, (low, high) in enumerate(crops, 1):
        y = lax.slice_in_dim(y, low, y.shape[axis] - high, axis=axis)
    return y


def unpool(x: Array, mask: Array, size: tuple[int, int]) -> Array:
    """Zeros (N, *size, C) with each x[n, i, j, c] at the pixel mask[n, i, j, c].

    Pixels count in row-major order. Where several x meet, the last of them in that
    order stays; those of a negative pixel go nowhere.
    """
    n, h, w, c = x.shape
    height, width = size
    place = mask.astype(jnp.int32).reshape(n, h * w, c)
    place = jnp.where(place < 0, height * width, place)
    order = jnp.arange(1, h * w + 1, dtype=jnp.int32)[None, :, None]
    images = jnp.arange(n, dtype=jnp.int32)[:, None, None]
    channels = jnp.arange(c, dtype=jnp.int32)[None, None, :]
    last = jnp.zeros((n, height * width, c), jnp.int32)
    last = last.at[images, place, channels].max(order, mode="drop")
    found = jnp.take_along_axis(x.reshape(n, h * w, c), jnp.maximum(last - 1, 0), 1)
    return jnp.where(last > 0, found, 0).reshape(n, height, width, c)
