"""Convolutions for a module that is only run, their weights prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layers.window import Padding
from caffe2flax.layout import Operand, Shape
from caffe2flax.registry import (
    Array,
    Blob,
    Layer,
    Layouts,
    Placing,
    Site,
    arguments,
    unless,
)

if TYPE_CHECKING:
    from caffe2flax.layers.convolution import Convolution

POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}
"""Where `ops.winograd` takes the values of polynomials, by the size of a tile."""
LARGE = 20
"""Pixels along an axis from which on tiles of 6 waste little."""
FEW_CHANNELS, FEW_PIXELS, MANY_GROUPS = 64, 6, 8
"""Beyond these the transforms cost more than the products that they save."""


@dataclass(frozen=True, slots=True)
class Prepared(Layer):
    """A convolution, then a factor and an offset for each channel; Winograd's with
    tiles of `tile` pixels, if that is not 0."""

    type = "Convolution"

    conv: Convolution
    behind: Layer | None = None
    tile: int = 0

    @property
    def gives_up(self) -> tuple[int, int]:
        return int(self.behind is not None), int(self.tile > 0)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return self.conv.infer(*inputs)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        behind = self.behind.blobs(*self.infer(*inputs)) if self.behind else ()
        return self.conv.blobs(*inputs) + behind

    def layouts(self, *inputs: Operand) -> Layouts:
        return self.conv.layouts(*inputs)

    def multiply_adds(self, *inputs: Shape) -> int:
        return self.conv.multiply_adds(*inputs)

    def caption(self, *inputs: Shape) -> str:
        return self.conv.caption(*inputs)

    def placing(self) -> Placing | None:
        return self.conv.placing()

    def windows(self, shape: Shape, outputs: Shape) -> Padding | None:
        return self.conv.windows(shape, outputs)

    def with_padding(self, padding: Padding) -> Layer:
        return replace(self, conv=self.conv.with_padding(padding))

    def prepare(self, *inputs: Shape) -> Layer:
        return replace(self, tile=tile_for(self.conv, *inputs))

    def build(self, at: Site) -> str:
        if not self.tile:
            biased = self.conv.bias or self.behind is not None
            return replace(self.conv, bias=biased).build(at)
        assert self.conv.padding is not None, "reconcile_padding has not run"
        kernel = self.conv.blobs(at.input.shape)[0].shape
        return "WinogradConv({})".format(
            arguments(
                kernel[1] * self.conv.group,
                self.conv.num_output,
                kernel[-1],
                tile=self.tile,
                padding=unless(self.conv.padding.emitted, "SAME"),
                feature_group_count=unless(self.conv.group, 1),
                dtype="dtype",
                rngs="rngs",
            )
        )

    def call(self, at: Site) -> str:
        return self.conv.call(at)

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        kernel, bias = blobs[0], blobs[1] if self.conv.bias else None
        if self.behind is not None:
            scale, shift = self._factors(blobs[1 + self.conv.bias :])
            kernel = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1))
            bias = shift if bias is None else bias * scale + shift
        if bias is None and self.tile:
            bias = np.zeros(self.conv.num_output)
        given = (kernel,) if bias is None else (kernel, bias)
        made = replace(self.conv, bias=bias is not None).weights(given, at)
        if self.tile:
            made["kernel"] = transformed(made["kernel"], self.tile)
        return {k: v.astype(np.float32, copy=False) for k, v in made.items()}

    def _factors(self, blobs: Sequence[Array]) -> tuple[Array, Array]:
        assert self.behind is not None
        assert self.behind.affine is not None
        with np.errstate(invalid="ignore", divide="ignore"):
            scale, shift = self.behind.affine(blobs)
        if not np.isfinite(scale).all():
            text = f"the factors of a {self.behind.type} are not finite"
            raise ConversionError(f"{text}: convert without optimize")
        return scale, shift

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        count = 1 + self.conv.bias
        top = self.conv.reference(blobs[:count], *inputs)
        if self.behind is None:
            return top
        return self.behind.reference(blobs[count:], np.asarray(top))


def tile_for(conv: Convolution, *inputs: Shape) -> int:
    """The tiles by which Winograd's algorithm is faster than a product of matrices; 0
    where it is not."""
    shape = inputs[0]
    usual = (
        len(inputs) == 1 and len(shape) == 4 and conv.sliding.channel_axis(shape) == 1
    )
    if not usual or conv.group > MANY_GROUPS:
        return 0
    windows = conv.sliding.windows(shape)
    if any((w.kernel, w.stride, w.dilation) != (3, 1, 1) for w in windows):
        return 0
    pixels = min(conv.infer(shape)[0][2:])
    channels = min(shape[1], conv.num_output) // conv.group
    if channels < FEW_CHANNELS or pixels < FEW_PIXELS:
        return 0
    return 6 if pixels >= LARGE else 4


def transformed(kernel: Array, tile: int) -> Array:
    """G w G^T of w (h, h, C, out): (tile, tile, C, out)."""
    window = len(kernel)
    finite = np.vander(np.array(POINTS[tile]), window, increasing=True)
    values = np.vstack([finite, np.eye(1, window, window - 1)])
    rows = np.tensordot(values, kernel.astype(np.float64), (1, 0))
    made = np.tensordot(values, rows, (1, 1))
    return np.ascontiguousarray(made.swapaxes(0, 1))
