"""Pooling that draws in training."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


class StochasticPool(nnx.Module):
    """Of each window of x (N, H, W, C), not negative, in training one value, drawn with
    itself as weight; else the mean with these weights, 0 where all are 0.

    `overhang` rows and columns of the last windows lie beyond the image and have no
    weight. Without a window the image is one.
    """

    def __init__(
        self,
        window: tuple[int, int] | None = None,
        strides: tuple[int, int] = (1, 1),
        overhang: tuple[int, int] = (0, 0),
    ):
        self.window = window
        self.strides = strides
        self.overhang = overhang
        self.deterministic = False  # train() and eval() set it

    def __call__(self, x: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        window = self.window or x.shape[1:3]
        over = [(0, 0), *((0, n) for n in self.overhang), (0, 0)]
        wide = jnp.pad(x.astype(np.promote_types(x.dtype, np.float32)), over)
        if self.deterministic:
            sums = nnx.avg_pool(wide, window, self.strides)
            squares = nnx.avg_pool(jnp.square(wide), window, self.strides)
            mean = squares / jnp.where(sums > 0, sums, 1)
            return jnp.where(sums > 0, mean, 0).astype(x.dtype)
        if rngs is None:
            raise ValueError("rngs are needed in training; eval() ends it")
        rows, columns = (
            np.arange(0, size - w + 1, stride)[:, None] + np.arange(w)
            for size, w, stride in zip(
                wide.shape[1:3], window, self.strides, strict=True
            )
        )
        pixels = jnp.moveaxis(wide[:, rows][:, :, :, columns], 2, 3)
        pixels = pixels.reshape(*pixels.shape[:3], -1, x.shape[-1])
        sums = jnp.cumsum(pixels, axis=3)
        total = sums[:, :, :, -1:]
        # Above 0 and up to 1, so that no pixel without weight is drawn.
        share = 1 - jax.random.uniform(rngs.dropout(), total.shape, total.dtype)
        chosen = jnp.argmax(sums >= share * total, axis=3, keepdims=True)
        return jnp.take_along_axis(pixels, chosen, 3)[:, :, :, 0].astype(x.dtype)
