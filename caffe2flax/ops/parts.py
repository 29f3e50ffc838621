"""Parts of blobs: crops, maxima and where they stand, items picked by number."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def largest(*blobs: Array) -> Array:
    """The elementwise maximum; its gradient goes to where Caffe's goes among equals: to
    the second of the first two, else to the earlier one."""
    first, second, *others = blobs
    start = jnp.where(first > second, first, second)
    return functools.reduce(lambda y, x: jnp.where(x > y, x, y), others, start)


def crop(x: Array, like: Array, starts: tuple[int | None, ...]) -> Array:
    """x from `starts` on, in the extents of `like`; None leaves an axis alone."""
    cuts = (
        slice(None) if start is None else slice(start, start + size)
        for start, size in zip(starts, like.shape, strict=False)
    )
    return x[tuple(cuts)]


def largest_first(x: Array, axis: int, top_k: int) -> Array:
    """Indices of the `top_k` largest entries on `axis`; of equals the later first."""
    backward = jnp.flip(jnp.where(x == 0, jnp.zeros_like(x), x), axis)
    if top_k == 1:
        return x.shape[axis] - 1 - jnp.argmax(backward, axis, keepdims=True)
    _, places = lax.top_k(jnp.moveaxis(backward, axis, -1), top_k)
    return x.shape[axis] - 1 - jnp.moveaxis(places, -1, axis)


def argmax(x: Array, axis: int, top_k: int = 1) -> Array:
    """`largest_first` as floats, which is what Caffe's blobs hold."""
    indices = largest_first(x, axis, top_k)
    return indices.astype(np.promote_types(x.dtype, np.float32))


def largest_entries(x: Array, axis: int, top_k: int = 1) -> Array:
    """The `top_k` largest entries along `axis`, largest first."""
    return jnp.take_along_axis(x, largest_first(x, axis, top_k), axis)


def argmax_items(x: Array, top_k: int = 1, with_values: bool = False) -> Array:
    """Indices in C order of each item's `top_k` largest entries: (N, 1, top_k, 1, ...);
    with their values, (N, 2, top_k, 1, ...)."""
    flat = x.reshape(x.shape[0], 1, math.prod(x.shape[1:]))
    y = argmax(flat, -1, top_k)
    if with_values:
        values = largest_entries(flat, -1, top_k).astype(y.dtype)
        y = jnp.concatenate([y, values], axis=1)
    return y.reshape(*y.shape, *(1,) * (x.ndim - 3))


def batch_reindex(x: Array, index: Array) -> Array:
    """y[i] = x[index[i]]; NaN where x has no such item, on which Caffe aborts."""
    known = (index >= 0) & (index < x.shape[0])
    places = jnp.where(known, index, x.shape[0]).astype(np.int32)
    return jnp.take(x, places, axis=0, mode="fill", fill_value=jnp.nan)


def filter_items(*blobs: Array) -> tuple[Array, ...]:
    """Of all blobs but the last the items for which that is not 0."""
    *given, selector = blobs
    kept = jnp.flatnonzero(selector)
    return tuple(jnp.take(x, kept, axis=0) for x in given)
