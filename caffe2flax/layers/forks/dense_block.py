"""DenseNet's block as one layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import DTYPE, RNGS, Call, Code
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import initializer
from caffe2flax.layers._fields import filler
from caffe2flax.layers._forks import images, positive

EPSILON = 1e-5
FIXED = {
    "pad_h": 1,
    "pad_w": 1,
    "conv_verticalStride": 1,
    "conv_horizentalStride": 1,
    "filter_H": 3,
    "filter_W": 3,
}
"""Fields that the fork ignores."""


class Step(NamedTuple):
    """A normalization, ReLU and convolution: the indices of their blobs, and sizes."""

    name: str
    kernel: int
    scale: int
    """The index of the first of four blobs, `numTransition` apart."""
    channels: int
    outputs: int
    size: int


MOST = 10_000
"""Transitions of a block that is converted: each has four blobs and more."""


@layer("DenseBlock", "denseblock_param", "dense_block_param")
@dataclass(frozen=True, slots=True)
class DenseBlock(Layer):
    """Each transition appends growthRate channels: BatchNorm, ReLU and a 3 x 3 filter.

    With use_BC, a 1 x 1 filter to 4 * growthRate channels, BatchNorm and ReLU come
    before the 3 x 3 filter. Filters are rotated by 180 degrees, unlike Convolution's.
    """

    in_place = False

    count: int
    first: int
    growth: int
    narrow: bool
    kernel_filler: Filler
    scale_filler: Filler
    bias_filler: Filler

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("gpuIdx", "workspace_MB", "BC_ultra_space_efficient")
        params.ignore("moving_average_fraction", "use_dropout", "dropout_amount")
        for name, value in FIXED.items():
            if params.get(name, value) != value:
                params.unsupported(
                    name, f"the fork has {value} for {name} whatever is given"
                )
        if params.phase == "TRAIN":
            params.unsupported(None, "DenseBlock is converted for TEST only")
        count, first, growth = (
            positive(params, name, default)
            for name, default in (
                ("numTransition", 40),
                ("initChannel", 16),
                ("growthRate", 12),
            )
        )
        if count > MOST:
            params.error("numTransition", f"numTransition {count} is more than {MOST}")
        params.note(
            f"{params.span()}: DenseBlock as the fork computes it on a GPU: running "
            "statistics as they are, whatever the last blob holds"
        )
        return cls(
            count,
            first,
            growth,
            params.get("use_BC", False),
            filler(params, "Filter_Filler"),
            filler(params, "BN_Scaler_Filler"),
            filler(params, "BN_Bias_Filler"),
        )

    def steps(self) -> Iterator[Step]:
        """The steps in the order in which they are computed."""
        n = self.count
        for i in range(n):
            channels = self.first + i * self.growth
            wide = 4 * self.growth
            if self.narrow:
                yield Step(f"narrow{i}", 5 * n + i, n + i, channels, wide, 1)
                yield Step(f"grow{i}", i, 6 * n + i, wide, self.growth, 3)
            else:
                yield Step(f"grow{i}", i, n + i, channels, self.growth, 3)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, c, *size = images(self.type, inputs[0])
        if c != self.first:
            raise ConversionError(f"initChannel is {self.first}, but there are {c}")
        return ((n, c + self.count * self.growth, *size),)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        blobs: dict[int, Blob] = {}
        ones = Filler("constant", value=1.0)
        fillers = (self.scale_filler, self.bias_filler, Filler(), ones)
        for step in self.steps():
            shape = (step.outputs, step.channels, step.size, step.size)
            blobs[step.kernel] = Blob(shape, self.kernel_filler)
            for k, own in enumerate(fillers):
                place = step.scale + k * self.count
                blobs[place] = Blob((1, step.channels, 1, 1), own)
        return (*(blobs[i] for i in sorted(blobs)), Blob((1,), Filler()))

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((Layout.channels_last(4),), (Layout.channels_last(4),))

    def build(self, at: Site) -> Call:
        shape, ones = (1, 1, 1, 1), Filler("constant", value=1.0)
        kernel, zeros = self.kernel_filler, Filler()
        kernel_init = None
        if at.initialise and (kernel.given or at.zeros):
            init = kernel.initializer((self.growth, 1, 3, 3), (2, 3, 1, 0))
            kernel_init = Code(init)
        return Call.of(
            "DenseBlock",
            self.first,
            self.count,
            self.growth,
            narrow=self.narrow,
            kernel_init=kernel_init,
            scale_init=initializer(at.initialise, self.scale_filler, shape, ones),
            bias_init=initializer(at.initialise, self.bias_filler, shape, zeros),
            dtype=DTYPE,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        variables: dict[str, Array] = {}
        for step in self.steps():
            turned = blobs[step.kernel][:, :, ::-1, ::-1].transpose(2, 3, 1, 0)
            variables[f"{step.name}.conv.kernel"] = turned
            for k, name in enumerate(("scale", "bias", "mean", "var")):
                blob = blobs[step.scale + k * self.count]
                variables[f"{step.name}.norm.{name}"] = blob.reshape(step.channels)
        return variables

    def multiply_adds(self, *inputs: Shape) -> int:
        pixels = inputs[0][0] * inputs[0][2] * inputs[0][3]
        return pixels * sum(s.channels * s.outputs * s.size**2 for s in self.steps())

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        wide = x
        for step in self.steps():
            scale, bias, mean, var = (
                blobs[step.scale + k * self.count].reshape(1, -1, 1, 1)
                for k in range(4)
            )
            y = scale * (wide - mean) / np.sqrt(var + EPSILON) + bias
            y = _convolve(np.maximum(y, 0), blobs[step.kernel])
            if step.name.startswith("narrow"):
                wide = y
                continue
            x = wide = np.concatenate([x, y], 1)
        return x


def _convolve(x: Array, kernel: Array) -> Array:
    """A true convolution that keeps the size."""
    height, width = x.shape[2:]
    pad = kernel.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    total = np.zeros((len(x), len(kernel), height, width))
    for i, j in product(range(2 * pad + 1), repeat=2):
        part = x[:, :, 2 * pad - i :, 2 * pad - j :][:, :, :height, :width]
        total += np.einsum("nchw,oc->nohw", part, kernel[:, :, i, j])
    return total
