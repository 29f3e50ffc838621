"""Convolutions by Winograd's minimal filtering, with kernels prepared once.

See Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). x is
(N, H, W, C), padded kernels are (tile, tile, C, out).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

CACHE = 2**23
"""The number of elements that fit into a processor's cache: larger batches are computed
image by image."""

WORTH_COMPILING = 5 * 10**7
"""The number of multiplications of an image from which a tenth of a second of
compilation is worth it."""


def tile_size(
    x: Sequence[int],
    kernel: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    thorough: bool,
) -> int:
    """The size of tiles, 4 or 6, with which a 3 x 3 convolution of stride 1 is faster
    than a product of matrices; 0 where it is not. x and kernel are shapes."""
    *window, channels, out = kernel
    if window != [3, 3] or min(channels, out) < 64:
        return 0
    sizes = [n + sum(pair) - 2 for n, pair in zip(x[1:-1], padding, strict=True)]
    least, pixels = min(sizes), math.prod(sizes)
    if least < 10 or (not thorough and 9 * pixels * channels * out < WORTH_COMPILING):
        return 0
    tile = 6 if least >= 20 and channels <= 512 else 4
    numbers = pixels * (channels + out) * tile**2 / (tile - 2) ** 2
    return tile if numbers <= CACHE else 0


def tiled_kernel(kernel: np.ndarray, tile: int) -> np.ndarray:
    """G w G^T of w (h, h, C, out): (tile, tile, C, out)."""
    filters = matrices(tile, len(kernel))[1]
    both = np.kron(filters, filters).astype(np.float32)
    tiles = both @ np.asarray(kernel, np.float32).reshape(len(both[0]), -1)
    return tiles.reshape(tile, tile, *kernel.shape[2:])


def tiled_conv(
    x: Array,
    kernel: Array,
    *others: Array,
    window: int,
    padding: Sequence[tuple[int, int]],
    finish: Callable[..., Array],
    products: Callable[[Array, Array], Array],
) -> Array:
    """finish(convolution of x with a prepared kernel, *others), which adds them.

    All images at once where they fit into a processor's cache, otherwise one by one.
    """

    def tiled(x: Array, *others: Array) -> Array:
        wide = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        return finish(winograd(wide, kernel, window, products), *others)

    tile, count = len(kernel), x.shape[0]
    sizes = sum(kernel.shape[2:]) * math.prod(x.shape[1:3])
    numbers = sizes * tile**2 // (tile - window + 1) ** 2
    if count == 1 or count * numbers <= CACHE:
        return tiled(x, *others)
    shared = [other for other in others if other.ndim == 1]
    images = [array[:, None] for array in (x, *others) if array.ndim > 1]
    y: Array = lax.map(lambda parts: tiled(parts[0], *shared, *parts[1:])[0], images)
    return y


def winograd(
    x: Array,
    kernel: Array,
    window: int,
    products: Callable[[Array, Array], Array],
) -> Array:
    """The convolution of x, padded, with a prepared kernel."""
    tile, _, channels, out = kernel.shape
    inputs, _, outputs = matrices(tile, window)
    step = tile - window + 1
    height, width = x.shape[1] - window + 1, x.shape[2] - window + 1
    down, across = -(-height // step), -(-width // step)
    spare = (down * step - height, across * step - width)
    x = jnp.pad(x, ((0, 0), (0, spare[0]), (0, spare[1]), (0, 0)))

    def cut(x: Array, axis: int, count: int) -> list[Array]:
        span = (count - 1) * step + 1
        return [lax.slice_in_dim(x, i, i + span, step, axis) for i in range(tile)]

    # In one loop, XLA would compute the first stage again for each read in the second:
    # so there are two loops. The first axes are the rows and the columns of a tile.
    stage = in_parts(inputs, cut(x, 2, across), 0)
    stage = combined(inputs, cut(stage, 2, down), 0)
    tiles = stage.reshape(tile**2, -1, channels)
    sums = products(tiles, kernel.reshape(tile**2, channels, out))
    stage = sums.reshape(tile, tile, -1, down, across, out)
    stage = in_parts(outputs, list(stage), 3)
    stage = combined(outputs, list(stage), 4)
    y = stage.reshape(-1, down * step, across * step, out)
    return y[:, :height, :width]


def in_parts(matrix: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """`combined`, with the last row computed separately."""
    parts = [combined(rows, arrays, axis) for rows in (matrix[:-1], matrix[-1:])]
    return jnp.concatenate(parts, axis)


def combined(matrix: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """The sums of arrays times each row of the matrix, along a new axis. One loop
    compiles faster than one for each row, and runs as fast."""
    shape = list(arrays[0].shape)
    shape.insert(axis, len(matrix))
    others = [n for n in range(len(shape)) if n != axis]
    terms = [
        lax.mul(
            lax.broadcast_in_dim(array, shape, others),
            lax.broadcast_in_dim(column.astype(array.dtype), shape, [axis]),
        )
        for column, array in zip(matrix.T, arrays, strict=True)
        if column.any()
    ]
    return functools.reduce(lax.add, terms)


def separate_products(x: Array, kernel: Array) -> Array:
    """x (parts, tiles, C) @ kernel (parts, C, out), part by part, unless there are so
    few tiles that slicing the kernel costs more."""
    _, tiles, channels = x.shape
    if tiles <= 2 * min(channels, kernel.shape[-1]):
        return jnp.matmul(x, kernel)
    return jnp.stack(list(map(jnp.matmul, x, kernel)))


@functools.cache
def matrices(tile: int, window: int) -> tuple[np.ndarray, ...]:
    """B^T (tile, tile), G (tile, window) and A^T (tile - window + 1, tile) of
    y = A^T ((G w) * (B^T x)), by Toom and Cook: polynomials by their values at `tile`
    points, the last one at infinity."""
    points = {4: (0, 1, -1), 6: (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}[tile]

    def values(terms: int) -> np.ndarray[Any, Any]:
        finite = np.vander(np.array(points, np.float64), terms, increasing=True)
        return np.vstack([finite, np.eye(1, terms, terms - 1)])

    inputs = np.linalg.inv(values(tile)).T
    inputs[abs(inputs) < 1e-12] = 0
    return inputs, values(window), values(tile - window + 1).T
