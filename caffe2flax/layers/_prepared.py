"""Convolutions for a module that is only run, their weights prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
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
LARGE, EXACT = 20, 512
"""Pixels along an axis from which on tiles of 6 waste little, and channels above which
on their rounding, three times that of tiles of 4, is too much for deep networks."""
FEW_CHANNELS, FEW_PIXELS, MANY_NUMBERS = 64, 10, 2**23
"""Beyond these the transforms cost more than the products that they save: tiles of more
numbers than the last leave a processor's cache. So do those of groups."""

WORTH = 10**8
"""Multiplications of an item from which on `compile` prepares a kernel: those that it
saves have to pay for what takes longer to compile."""


@dataclass(frozen=True, slots=True)
class Prepared(Layer):
    """A convolution; then, where there are such, a factor and an offset for each
    channel, another bottom that is added, and max(x, 0). Winograd's with tiles of
    `tile` pixels, if that is not 0."""

    type = "Convolution"

    conv: Convolution
    behind: Layer | None = None
    adds: bool = False
    relu: bool = False
    tile: int = 0

    @property
    def gives_up(self) -> tuple[int, int]:
        others = self.behind is not None or self.adds or self.relu
        return int(others), int(self.tile > 0)

    def absorb(self, following: Layer) -> Layer | None:
        if self.relu:
            return None
        if following.rectifies:
            return replace(self, relu=True)
        if self.adds:
            return None
        if following.sums:
            return replace(self, adds=True)
        if self.behind is None and following.affine is not None:
            return replace(self, behind=following)
        return None

    def prepare(self, *inputs: Shape) -> Layer:
        return replace(self, tile=tile_for(self.conv, inputs[0]))

    @property
    def by_item(self) -> bool:
        return True

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return self.conv.infer(inputs[0])

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        behind = self.behind.blobs(*self.infer(*inputs)) if self.behind else ()
        return self.conv.blobs(inputs[0]) + behind

    def layouts(self, *inputs: Operand) -> Layouts:
        one = self.conv.layouts(inputs[0])
        return Layouts(one.inputs * len(inputs), one.outputs)

    def multiply_adds(self, *inputs: Shape) -> int:
        return self.conv.multiply_adds(inputs[0])

    def caption(self, *inputs: Shape) -> str:
        return self.conv.caption(inputs[0])

    def placing(self) -> Placing | None:
        return self.conv.placing()

    def windows(self, shape: Shape, outputs: Shape) -> Padding | None:
        return self.conv.windows(shape, outputs)

    def with_padding(self, padding: Padding) -> Layer:
        return replace(self, conv=self.conv.with_padding(padding))

    def build(self, at: Site) -> str:
        relu = unless(self.relu, False)
        if not self.tile:
            fused = replace(self.conv, bias=True)
            return fused.construct(at, relu=relu)
        assert self.conv.padding is not None, "reconcile_padding has not run"
        kernel = self.conv.blobs(at.input.shape)[0].shape
        return "WinogradConv({})".format(
            arguments(
                kernel[1],
                self.conv.num_output,
                kernel[-1],
                tile=self.tile,
                padding=unless(self.conv.padding.emitted, "SAME"),
                relu=relu,
                dtype="dtype",
                rngs="rngs",
            )
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({', '.join(at.args)})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        kernel, bias = blobs[0], blobs[1] if self.conv.bias else None
        if self.behind is not None:
            scale, shift = self._factors(blobs[1 + self.conv.bias :])
            kernel = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1))
            bias = shift if bias is None else bias * scale + shift
        if bias is None:
            bias = np.zeros(self.conv.num_output)
        made = replace(self.conv, bias=True).weights((kernel, bias), at)
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
        top = np.asarray(self.conv.reference(blobs[:count], inputs[0]))
        if self.behind is not None:
            top = np.asarray(self.behind.reference(blobs[count:], top))
        top = sum(inputs[1:], top)
        return np.maximum(top, 0) if self.relu else top


def tile_for(conv: Convolution, shape: Shape) -> int:
    """The tiles by which Winograd's algorithm is faster than a product of matrices; 0
    where it is not."""
    usual = len(shape) == 4 and conv.sliding.channel_axis(shape) == 1
    if not usual or conv.group > 1:
        return 0
    windows = conv.sliding.windows(shape)
    if any((w.kernel, w.stride, w.dilation) != (3, 1, 1) for w in windows):
        return 0
    sizes = conv.infer(shape)[0][2:]
    pixels = min(sizes)
    channels = min(shape[1], conv.num_output)
    tile = 6 if pixels >= LARGE and shape[1] <= EXACT else 4
    numbers = prod(sizes) * (shape[1] + conv.num_output) * (tile / (tile - 2)) ** 2
    small = channels < FEW_CHANNELS or pixels < FEW_PIXELS
    return 0 if small or numbers > MANY_NUMBERS else tile


def transformed(kernel: Array, tile: int) -> Array:
    """G w G^T of w (h, h, C, out): (tile, tile, C, out)."""
    window = len(kernel)
    finite = np.vander(np.array(POINTS[tile]), window, increasing=True)
    values = np.vstack([finite, np.eye(1, window, window - 1)])
    rows = np.tensordot(values, kernel.astype(np.float64), (1, 0))
    made = np.tensordot(values, rows, (1, 1))
    return np.ascontiguousarray(made.swapaxes(0, 1))
