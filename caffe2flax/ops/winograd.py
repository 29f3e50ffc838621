"""Convolution by Winograd's minimal filtering, for modules that are only run."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jax import Array, lax

from caffe2flax.ops.onednn import either, onednn_products


class WinogradConv(nnx.Module):
    """y[n, i, o] = bias[o] + sum of w[k, c, o] * x[n, i + k - pad, c], over two axes,
    plus other, and max(that, 0) where `relu` is true.

    x is (N, H, W, C); there may be an other, of the shape of y. `kernel` (tile, tile,
    C, out) is G w G^T, prepared: see Lavin and Gray, "Fast Algorithms for Convolutional
    Neural Networks" (2016). On CPU 1.3 to 2.5 times faster than a convolution, within
    1e-5 of it; elsewhere, and below 32 bits, the convolution with w itself.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: int,
        *,
        tile: int,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        relu: bool = False,
        dtype: Dtype | None = None,
        rngs: nnx.Rngs,
    ):
        shape = (tile, tile, in_features, out_features)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.window, self.tile, self.padding = window, tile, padding
        self.relu, self.dtype = relu, dtype

    def __call__(self, x: Array, *others: Array) -> Array:
        dtype = self.dtype or jnp.result_type(x, self.kernel[...])
        kernel = self.kernel[...]
        bias = self.bias[...].astype(dtype)
        arrays = [array.astype(dtype) for array in (x, *others)]
        pads = self.padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(x.shape[1:3], (self.window,) * 2, (1, 1), pads)

        def tiled(x: Array, *others: Array) -> Array:
            return add_tiled(
                x,
                kernel,
                bias,
                *others,
                window=self.window,
                padding=pads,
                relu=self.relu,
            )

        def native(x: Array, *others: Array) -> Array:
            inverse = np.linalg.pinv(winograd_matrices(self.tile, self.window)[1])
            w = jnp.einsum("ia,jb,abco->ijco", inverse, inverse, kernel).astype(dtype)
            y = lax.conv_general_dilated(
                x,
                w,
                (1, 1),
                pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return add_relu(y, bias, *others, relu=self.relu)

        if arrays[0].dtype.itemsize < 4:
            return native(*arrays)
        y: Array = lax.platform_dependent(*arrays, cpu=tiled, default=native)
        return y


def tiled_conv(
    x: Array,
    kernel: Array,
    *others: Array,
    padding: Sequence[tuple[int, int]],
    relu: bool = False,
    **options: Any,
) -> Array:
    """conv(x, kernel) + others, and max(that, 0) where `relu` is true, by Winograd's
    algorithm. x is (N, H, W, C), kernel is (h, h, C, out)."""
    window, tile = len(kernel), tile_size(x, kernel, padding)
    kernel = tiled_kernel(kernel, tile)
    return add_tiled(x, kernel, *others, window=window, padding=padding, relu=relu)


def tiled_kernel(kernel: Array, tile: int) -> Array:
    """G w G^T of w (h, h, C, out): (tile, tile, C, out)."""
    filters = winograd_matrices(tile, len(kernel))[1]
    both = jnp.asarray(np.kron(filters, filters), kernel.dtype)
    made = jnp.matmul(both, kernel.reshape(len(both[0]), -1), precision="highest")
    return made.reshape(tile, tile, *kernel.shape[2:])


def tile_size(
    x: Array,
    kernel: Array,
    pads: Sequence[tuple[int, int]],
    *,
    prepared: bool = False,
) -> int:
    """The tiles by which Winograd's algorithm is faster than a product of matrices,
    for a kernel that is prepared once or else at every call; 0 where it is not."""
    *window, channels, out = kernel.shape
    if window != [3, 3] or min(channels, out) < 64:
        return 0
    sizes = [n + sum(pair) - 2 for n, pair in zip(x.shape[1:-1], pads, strict=True)]
    least, pixels = min(sizes), math.prod(sizes)
    if prepared:
        tile = 6 if least >= 20 and channels <= 512 else 4
        worth_compiling = 9 * pixels * channels * out >= 10**8
        pays = least >= 10 and worth_compiling
    else:
        tile = 6 if channels < 256 else 4
        pays = least >= 50 and x.shape[0] * pixels >= 8 * max(channels, out)
    numbers = pixels * (channels + out) * tile**2 / (tile - 2) ** 2
    return tile if pays and numbers <= 2**23 else 0


def add_tiled(
    x: Array,
    kernel: Array,
    *others: Array,
    window: int,
    padding: Sequence[tuple[int, int]],
    relu: bool,
) -> Array:
    """The convolution of x (N, H, W, C) with a prepared kernel (tile, tile, C, out),
    plus others, and max(that, 0) where `relu` is true. All images at once where that
    fits into a processor's cache, else one by one."""

    def tiled(x: Array, *others: Array) -> Array:
        y = winograd(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, window)
        return add_relu(y, *others, relu=relu)

    tile, count = len(kernel), x.shape[0]
    sizes = sum(kernel.shape[2:]) * math.prod(x.shape[1:3])
    numbers = sizes * tile**2 // (tile - window + 1) ** 2
    if not isinstance(count, int) or count == 1 or count * numbers <= 2**23:
        return tiled(x, *others)
    shared = [other for other in others if other.ndim == 1]
    images = [array[:, None] for array in (x, *others) if array.ndim > 1]
    y: Array = lax.map(lambda parts: tiled(parts[0], *shared, *parts[1:])[0], images)
    return y


def winograd(x: Array, kernel: Array, window: int) -> Array:
    """The convolution of x (N, H, W, C), padded, with a prepared kernel (tile, tile, C,
    out)."""
    tile, _, channels, out = kernel.shape
    inputs, _, outputs = winograd_matrices(tile, window)
    step = tile - window + 1
    height, width = x.shape[1] - window + 1, x.shape[2] - window + 1
    down, across = -(-height // step), -(-width // step)
    spare = (down * step - height, across * step - width)
    x = jnp.pad(x, ((0, 0), (0, spare[0]), (0, spare[1]), (0, 0)))

    def cut(x: Array, axis: int, count: int) -> list[Array]:
        span = (count - 1) * step + 1
        return [lax.slice_in_dim(x, i, i + span, step, axis) for i in range(tile)]

    # XLA would compute the first stage again for all that reads it in the second, were
    # it one loop: so it is two, one behind the other. The leading axes are the rows and
    # the columns of a tile.
    stage = in_parts(inputs, cut(x, 2, across), 0)
    stage = combined(inputs, cut(stage, 2, down), 0)
    tiles = stage.reshape(tile**2, -1, channels)
    filters = kernel.reshape(tile**2, channels, out)
    shape = (*tiles.shape[:-1], out)
    made = either(onednn_products, separate_products, shape, tiles, filters)
    stage = made.reshape(tile, tile, -1, down, across, out)
    stage = in_parts(outputs, list(stage), 3)
    stage = combined(outputs, list(stage), 4)
    y = stage.reshape(-1, down * step, across * step, out)
    return y[:, :height, :width]


def in_parts(matrix: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """`combined`, its last row apart."""
    parts = [combined(rows, arrays, axis) for rows in (matrix[:-1], matrix[-1:])]
    return jnp.concatenate(parts, axis)


def combined(matrix: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """The sums of arrays times a row of the matrix, along a new axis. That is one loop,
    which is compiled sooner than one for each row, and as fast."""
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


def add_relu(y: Array, *others: Array, relu: bool) -> Array:
    """y + others, whose axes are the last of y, and max(that, 0) where `relu` is
    true."""
    for other in others:
        y = y + other.reshape((1,) * (y.ndim - other.ndim) + other.shape)
    return nnx.relu(y) if relu else y


def separate_products(x: Array, kernel: Array) -> Array:
    """x (parts, tiles, C) @ kernel (parts, C, out), part by part unless so few tiles
    are there that to take the kernel apart would cost more."""
    _, tiles, channels = x.shape
    if isinstance(tiles, int) and tiles <= 2 * min(channels, kernel.shape[-1]):
        return jnp.matmul(x, kernel)
    return jnp.stack(list(map(jnp.matmul, x, kernel)))


def winograd_matrices(tile: int, window: int) -> tuple[np.ndarray, ...]:
    """B^T (tile, tile), G (tile, window) and A^T (tile - window + 1, tile) of
    y = A^T ((G w) * (B^T x)), by Toom and Cook: polynomials by their values at `tile`
    points, the last one at infinity."""
    points = {4: (0, 1, -1), 6: (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}[tile]

    def values(terms: int) -> np.ndarray:
        finite = np.vander(np.array(points, np.float64), terms, increasing=True)
        return np.vstack([finite, np.eye(1, terms, terms - 1)])

    inputs = np.linalg.inv(values(tile)).T
    inputs[abs(inputs) < 1e-12] = 0
    return inputs, values(window), values(tile - window + 1).T
