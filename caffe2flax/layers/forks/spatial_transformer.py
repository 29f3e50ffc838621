"""The spatial transformer that takes `st_param`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import images

ENTRIES = tuple(f"theta_{row}_{column}" for row in (1, 2) for column in (1, 2, 3))


@layer("SpatialTransformer", "st_param")
@dataclass(frozen=True, slots=True)
class SpatialTransformer(Layer):
    """y[i, j] = x at theta (i, j, 1), between four pixels, 0 beyond its edges.

    Rows come first. An index i of n is the coordinate 2 i / n - 1, in the top and in x.
    theta (N, 6) is without the entries that the layer's fields fix.
    """

    bottoms = 2
    in_place = False

    size: tuple[int | None, int | None] = (None, None)
    fixed: tuple[tuple[int, float], ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        # Whether gradients are computed for the images: JAX does that where needed.
        params.ignore("to_compute_dU")
        if params.message is None:
            params.unsupported(
                None,
                "without st_param, forks mean several layers by SpatialTransformer: "
                "say by a plug-in which it is",
            )
        for name, only in (("transform_type", "affine"), ("sampler_type", "bilinear")):
            value = params.get(name, only)
            if value != only:
                params.unsupported(name, f"{name} is {only!r} in Caffe, not {value!r}")
        size = params.optional("output_H", int), params.optional("output_W", int)
        for name, extent in zip(("output_H", "output_W"), size, strict=True):
            if extent is not None and extent < 1:
                params.error(name, f"{name} must be positive, not {extent}")
        entries = [(k, params.optional(name, float)) for k, name in enumerate(ENTRIES)]
        return cls(size, tuple((k, v) for k, v in entries if v is not None))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, theta = inputs
        n, channels, *size = images(self.type, x)
        free = 6 - len(self.fixed)
        if theta[:1] != (n,) or prod(theta[1:]) != free:
            raise ConversionError(f"theta over {x} is ({n}, {free}), not {theta}")
        rows, columns = (a or b for a, b in zip(self.size, size, strict=True))
        return ((n, channels, rows, columns),)

    def layouts(self, *inputs: Operand) -> Layouts:
        last = Layout.channels_last(4)
        return Layouts((last, Layout.caffe(len(inputs[1].shape))), (last,))

    def call(self, at: Site) -> str:
        fixed = ", ".join(f"{k}: {literal(value)}" for k, value in self.fixed)
        options = {"fixed": f"{{{fixed}}}" if fixed else None}
        size = literal(at.output.shape[2:])
        return f"spatial_transform({arguments(*at.args, size, **options)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, theta = inputs
        (shape,) = self.infer(x.shape, theta.shape)
        n, _, height, width = x.shape
        rows, columns = shape[2:]
        full = np.empty((n, 6))
        free = [k for k in range(6) if k not in dict(self.fixed)]
        full[:, free] = theta.reshape(n, -1)
        for k, value in self.fixed:
            full[:, k] = value
        grid = np.ones((rows, columns, 3))
        grid[..., 0] = (np.arange(rows) / rows * 2 - 1)[:, None]
        grid[..., 1] = np.arange(columns) / columns * 2 - 1
        place = (np.einsum("nek,ijk->nije", full.reshape(n, 2, 3), grid) + 1) / 2
        down, right = place[..., 0] * height, place[..., 1] * width
        # Each pixel of x has a weight by its distance; x has a border of 0.
        border = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
        down = np.clip(down, -1.5, height + 0.5)
        right = np.clip(right, -1.5, width + 0.5)
        top = np.zeros(shape)
        images_ = np.arange(n)[:, None, None]
        for m in (np.floor(down), np.floor(down) + 1):
            for k in (np.floor(right), np.floor(right) + 1):
                near = (1 - np.abs(down - m)) * (1 - np.abs(right - k))
                row, column = m.astype(int) + 2, k.astype(int) + 2
                pixels = border[images_, :, row, column]
                top += np.moveaxis(near[..., None] * pixels, -1, 1)
        return top
