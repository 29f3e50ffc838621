"""Local response normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Elementwise, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("LRN", "lrn_param")
@dataclass(frozen=True, slots=True)
class LRN(Elementwise):
    """x / (k + alpha / n * sum of squares over n channels) ** beta.

    WITHIN_CHANNEL: x / (1 + alpha * mean of squares over n x n pixels) ** beta. In
    place and across channels, Caffe overwrites x too early: the top is the square of
    the factor of x.
    """

    size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0
    within: bool = False
    lossy: bool = False
    """Whether it works in place, across channels."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        region = params.choice("norm_region", "ACROSS_CHANNELS", "WITHIN_CHANNEL")
        size = params.get("local_size", 5)
        if size < 1 or size % 2 == 0:
            params.error("local_size", f"local_size must be odd, not {size}")
        within = region == "WITHIN_CHANNEL"
        lossy = params.in_place and not within
        if lossy:
            params.note(
                f"{params.span()}: LRN in place overwrites its input before it reads "
                "it; the module gives what Caffe gives then, scale ** (-2 * beta)"
            )
        return cls(
            size,
            params.get("alpha", 1.0),
            params.get("beta", 0.75),
            params.get("k", 1.0),
            within,
            lossy,
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 4:
            raise ConversionError(f"LRN needs a blob of 4 axes, not {inputs[0]}")
        return inputs

    def caption(self, *inputs: Shape) -> str:
        return f"{self.size}x{self.size}" if self.within else f"{self.size} channels"

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(4)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        alpha, beta = literal(self.alpha), literal(self.beta)
        window = {"size": self.size, "alpha": alpha, "beta": beta}
        if self.within:
            return f"lrn_within_channel({arguments(at.x, **window)})"
        k = unless(self.k, 1.0)
        name = "lrn_in_place" if self.lossy else "lrn"
        return f"{name}({arguments(at.x, **window, k=k)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        half = self.size // 2
        squares = np.square(x)
        if self.within:
            total = np.zeros_like(x)
            padded = np.pad(squares, ((0, 0), (0, 0), (half, half), (half, half)))
            height, width = x.shape[2:]
            for i in range(self.size):
                for j in range(self.size):
                    total += padded[:, :, i : i + height, j : j + width]
            mean = total / self.size**2
            return x * (1 + self.alpha * mean) ** -self.beta
        padded = np.pad(squares, ((0, 0), (half, half), (0, 0), (0, 0)))
        channels = x.shape[1]
        total = sum(
            (padded[:, i : i + channels] for i in range(self.size)), np.zeros_like(x)
        )
        scale = self.k + self.alpha / self.size * total
        top: Array = scale ** (-2 * self.beta) if self.lossy else x * scale**-self.beta
        return top
