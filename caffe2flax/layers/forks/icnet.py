"""ICNet's pyramid as one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import Window, pool_output, pool_windows
from caffe2flax.layers._forks import Frames, images
from caffe2flax.layers.forks._sampling import corners, linear

KERNELS = ((33, 65), (17, 33), (13, 25), (8, 15))
STRIDES = ((33, 65), (16, 32), (10, 20), (5, 10))


@layer("ICNetSubgraph")
@dataclass(frozen=True, slots=True)
class ICNetSubgraph(Frames):
    """x plus four AVE pools of it, each enlarged to its size with corners aligned."""

    def _windows(self, shape: Shape) -> list[list[tuple[Window, int]]]:
        """Windows and sizes of each pool, for rows and columns."""
        return [
            [
                (Window(k, s), pool_output(n, Window(k, s), ceil=True, clip=False))
                for n, k, s in zip(shape[2:], kernels, strides, strict=True)
            ]
            for kernels, strides in zip(KERNELS, STRIDES, strict=True)
        ]

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        images(self.type, shape)
        for pool in self._windows(shape):
            for (window, size), extent in zip(pool, shape[2:], strict=True):
                if size < 1 or (size - 1) * window.stride >= extent:
                    raise ConversionError(f"a pool of {window.kernel} misses {extent}")
        return inputs

    def call(self, at: Site) -> str:
        return f"add_pyramid({at.x}, {KERNELS}, {STRIDES})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        top = x.copy()
        for rows, columns in self._windows(x.shape):
            pooled = np.empty((*x.shape[:2], rows[1], columns[1]))
            for i, (h0, h1, _) in enumerate(pool_windows(x.shape[2], *rows)):
                for j, (w0, w1, _) in enumerate(pool_windows(x.shape[3], *columns)):
                    pooled[:, :, i, j] = x[:, :, h0:h1, w0:w1].mean((2, 3))
            top += linear(pooled, x.shape[2:], (2, 3), corners)
        return top
