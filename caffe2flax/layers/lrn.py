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
from caffe2flax.ir.window import INT_MAX


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
        if self.within and self.size + max(inputs[0][2:]) > INT_MAX:
            raise ConversionError(f"local_size {self.size} exceeds what Caffe can pad")
        return inputs

    def caption(self, *inputs: Shape) -> str:
        return f"{self.size}x{self.size}" if self.within else f"{self.size} channels"

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(4)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        # Of more than 2 C - 1 channels, or pixels, the others are zeros.
        _, channels, *extents = at.input.shape
        size = min(self.size, 2 * max(extents if self.within else [channels]) - 1)
        alpha = literal(self.alpha if size == self.size else self._alpha(size))
        window = {"size": size, "alpha": alpha, "beta": literal(self.beta)}
        if self.within:
            return f"lrn_within_channel({arguments(at.x, **window)})"
        k = unless(self.k, 1.0)
        name = "lrn_in_place" if self.lossy else "lrn"
        return f"{name}({arguments(at.x, **window, k=k)})"

    def _alpha(self, size: int) -> float:
        """The alpha that gives the same with the mean over `size` channels, or over
        `size` x `size` pixels."""
        return self.alpha * (size / self.size) ** (2 if self.within else 1)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        squares = np.square(x)
        if self.within:
            total = _near(_near(squares, self.size, 2), self.size, 3)
            mean = total / self.size**2
            return x * (1 + self.alpha * mean) ** -self.beta
        scale = self.k + self.alpha / self.size * _near(squares, self.size, 1)
        top: Array = scale ** (-2 * self.beta) if self.lossy else x * scale**-self.beta
        return top


def _near(x: Array, size: int, axis: int) -> Array:
    """The sum over `size` neighbours along an axis, of which many may lie outside."""
    extent = x.shape[axis]
    half = min(size // 2, extent - 1)
    pads = [(0, 0)] * x.ndim
    pads[axis] = (half, half)
    padded = np.moveaxis(np.pad(x, pads), axis, 0)
    total: Array = sum(
        (padded[i : i + extent] for i in range(2 * half + 1)),
        np.zeros_like(padded[:extent]),
    )
    return np.moveaxis(total, 0, axis)
