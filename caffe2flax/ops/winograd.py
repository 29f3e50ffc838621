"""Convolution by Winograd's minimal filtering, for modules that are only run."""

import functools
import math
from collections.abc import Sequence

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
        bias = self.bias[...].astype(dtype).reshape(1, 1, 1, -1)
        arrays = [array.astype(dtype) for array in (x, *others)]
        pads = self.padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(x.shape[1:3], (self.window,) * 2, (1, 1), pads)

        def finished(y: Array, *others: Array) -> Array:
            y = functools.reduce(jnp.add, others, y + bias)
            return jnp.maximum(y, 0) if self.relu else y

        def tiled(x: Array, *others: Array) -> Array:
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
            return finished(winograd(x, kernel, self.window), *others)

        def in_cache(x: Array, *others: Array) -> Array:
            """A third of what a processor's last cache holds, or image by image."""
            step = self.tile - self.window + 1
            size = math.prod(x.shape[:3]) * sum(kernel.shape[2:]) * self.tile**2
            if x.shape[0] == 1 or size <= 2**23 * step**2:
                return tiled(x, *others)
            images = [array[:, None] for array in (x, *others)]
            y: Array = lax.map(lambda image: tiled(*image)[0], tuple(images))
            return y

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
            return finished(y, *others)

        if arrays[0].dtype.itemsize < 4:
            return native(*arrays)
        on_cpu = in_cache if isinstance(x.shape[0], int) else tiled
        y: Array = lax.platform_dependent(*arrays, cpu=on_cpu, default=native)
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

    def sums(matrix: np.ndarray, arrays: Sequence[Array], axis: int = 0) -> Array:
        return jnp.stack([weighted(row, arrays) for row in matrix], axis)

    # Each stage is written to memory: XLA would compute the one before again for all
    # that reads it. The leading axes are the rows and the columns of a tile.
    stage = sums(inputs, cut(x, 2, across))
    stage = sums(inputs, cut(stage, 2, down))
    tiles = stage.reshape(tile**2, -1, channels)
    filters = kernel.reshape(tile**2, channels, out)
    made = either(onednn_products, separate_products, tiles, filters)
    stage = made.reshape(tile, tile, -1, down, across, out)
    stage = sums(outputs, list(stage), 3)
    stage = sums(outputs, list(stage), 4)
    y = stage.reshape(-1, down * step, across * step, out)
    return y[:, :height, :width]


def separate_products(x: Array, kernel: Array) -> Array:
    """x (parts, tiles, C) @ kernel (parts, C, out), part by part unless so few tiles
    are there that to take the kernel apart would cost more."""
    _, tiles, channels = x.shape
    if isinstance(tiles, int) and tiles <= 2 * min(channels, kernel.shape[-1]):
        return jnp.matmul(x, kernel)
    return jnp.stack(list(map(jnp.matmul, x, kernel)))


def weighted(weights: Sequence[float], arrays: Sequence[Array]) -> Array:
    """The sum of arrays times weights."""
    terms = [
        array if weight == 1 else array * float(weight)
        for weight, array in zip(weights, arrays, strict=True)
        if weight != 0
    ]
    return functools.reduce(jnp.add, terms)


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
