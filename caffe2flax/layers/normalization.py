"""Bringing values to a common scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layers._fields import filler
from caffe2flax.layers.fillers import Filler
from caffe2flax.layout import Layout, Operand, Shape
from caffe2flax.params import Params
from caffe2flax.registry import (
    Array,
    Blob,
    Elementwise,
    Layer,
    Layouts,
    Site,
    arguments,
    canonical_axis,
    layer,
    literal,
    unless,
)


def _channels(shape: Shape) -> int:
    return 1 if len(shape) == 1 else shape[1]


@layer("BatchNorm", "batch_norm_param")
@dataclass(frozen=True, slots=True)
class BatchNorm(Elementwise):
    """(x - mean) / sqrt(variance + eps), a channel at a time."""

    eps: float = 1e-5
    momentum: float = 0.999
    scale: Scale | None = None
    """The Scale layer behind it, once folded in."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("use_global_stats")
        return cls(
            params.get("eps", 1e-5), params.get("moving_average_fraction", 0.999)
        )

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        channels = (_channels(inputs[0]),)
        own = (Blob(channels, Filler()), Blob(channels, Filler()), Blob((1,), Filler()))
        return own + (self.scale.blobs(*inputs) if self.scale else ())

    def fold(self, following: Layer) -> Layer | None:
        if self.scale is not None or not isinstance(following, Scale):
            return None
        if not following.is_per_channel:
            return None
        return BatchNorm(self.eps, self.momentum, following)

    def build(self, at: Site) -> str:
        rank = len(at.input.shape)
        channels = _channels(at.input.shape)
        return "nnx.BatchNorm({})".format(
            arguments(
                channels,
                axis=unless(at.axis(1) if rank > 1 else 0, -1),
                momentum=unless(self.momentum, 0.99),
                epsilon=unless(self.eps, 1e-5),
                use_bias=unless(self.scale is not None and self.scale.bias, True),
                use_scale=unless(self.scale is not None, True),
                dtype="dtype",
                rngs="rngs",
            )
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        mean, variance = statistics(blobs)
        named = {"mean": mean, "var": variance}
        if self.scale:
            named |= dict(zip(("scale", "bias"), blobs[3:], strict=False))
        return {k: at.input.arrange_blob(v, 1) for k, v in named.items()}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        mean, variance = (
            along(stat, x, 1) for stat in statistics(blobs[:3], np.float64)
        )
        top: Array = (x - mean) / np.sqrt(variance + self.eps)
        return self.scale.reference(blobs[3:], top) if self.scale else top


def statistics(
    blobs: Sequence[Array], dtype: type[np.floating] = np.float32
) -> tuple[Array, Array]:
    """Mean and variance (C): Caffe stores them times a factor, its third blob; 0 makes both 0."""
    mean, variance, factor = (np.asarray(blob, dtype) for blob in blobs[:3])
    divisor = factor.reshape(-1)[0]
    scale = dtype(0) if divisor == 0 else dtype(1) / divisor
    return mean * scale, variance * scale


def along(blob: Array, x: Array, axis: int) -> Array:
    """`blob` broadcast against `x`, its axes lying on those of `x` from `axis` on."""
    start = min(axis, x.ndim - blob.ndim)
    return blob.reshape((1,) * start + blob.shape + (1,) * (x.ndim - start - blob.ndim))


@layer("Scale", "scale_param")
@dataclass(frozen=True, slots=True)
class Scale(Layer):
    """x * scale + bias, the blobs lying on `num_axes` axes of x from `axis` on."""

    bias: bool = False
    first_axis: int = 1
    num_axes: int = 1
    scale_filler: Filler = Filler("constant", value=1.0)
    bias_filler: Filler = Filler()

    @classmethod
    def parse(cls, params: Params) -> Self:
        num_axes = params.get("num_axes", 1)
        if num_axes < -1:
            params.error("num_axes", f"num_axes must be -1 or more, not {num_axes}")
        return cls(
            bias=params.get("bias_term", False),
            first_axis=params.get("axis", 1),
            num_axes=num_axes,
            scale_filler=filler(params, "filler", 1.0),
            bias_filler=filler(params, "bias_filler"),
        )

    @property
    def is_per_channel(self) -> bool:
        return self.first_axis == 1 and self.num_axes == 1

    def _span(self, shape: Shape) -> tuple[int, int]:
        axis = canonical_axis(self.first_axis, len(shape))
        end = len(shape) if self.num_axes < 0 else axis + self.num_axes
        if end > len(shape):
            raise ConversionError(
                f"axis {axis} and num_axes {self.num_axes} exceed a blob of "
                f"{len(shape)} axes"
            )
        return axis, end

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        self._span(inputs[0])
        return inputs[:1]

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        start, end = self._span(inputs[0])
        shape = inputs[0][start:end]
        scale = Blob(shape, self.scale_filler)
        return (scale, Blob(shape, self.bias_filler)) if self.bias else (scale,)

    def names(self) -> tuple[str, ...]:
        return ("scale", "bias")

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((inputs[0].layout,), (inputs[0].layout,))

    def build(self, at: Site) -> str:
        start, end = self._span(at.input.shape)
        shape = at.input.arrange_blob(
            np.empty(at.input.shape[start:end], np.bool), start
        )
        covered = {at.input.layout.axes.index(axis) for axis in range(start, end)}
        rank = len(at.input.shape)
        broadcast = tuple(i for i in range(rank) if i not in covered)
        return "Scale({})".format(
            arguments(
                literal(shape.shape),
                literal(broadcast),
                use_bias=unless(self.bias, True),
                rngs="rngs",
            )
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        start, _ = self._span(at.input.shape)
        named = zip(("scale", "bias"), blobs, strict=False)
        return {name: at.input.arrange_blob(blob, start) for name, blob in named}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        start, _ = self._span(x.shape)
        top: Array = x * along(blobs[0], x, start)
        return top + along(blobs[1], x, start) if self.bias else top


@layer("LRN", "lrn_param")
@dataclass(frozen=True, slots=True)
class LRN(Elementwise):
    """x / (k + alpha / n * sum of squares over n channels) ** beta."""

    size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0
    within: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        region = params.choice("norm_region", "ACROSS_CHANNELS", "WITHIN_CHANNEL")
        size = params.get("local_size", 5)
        if size < 1 or size % 2 == 0:
            params.error("local_size", f"local_size must be odd, not {size}")
        if params.in_place:
            params.error(None, "LRN in place loses its input")
        return cls(
            size,
            params.get("alpha", 1.0),
            params.get("beta", 0.75),
            params.get("k", 1.0),
            region == "WITHIN_CHANNEL",
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 4:
            raise ConversionError(f"LRN needs a blob of 4 axes, not {inputs[0]}")
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(4) if self.within else inputs[0].layout.plain()
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        window = {"size": self.size, "alpha": self.alpha, "beta": self.beta}
        if self.within:
            return f"lrn_within_channel({arguments(at.x, **window)})"
        k = unless(self.k, 1.0)
        axis = unless(at.axis(1), -1)
        return f"lrn({arguments(at.x, **window, k=k, axis=axis)})"

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
        return x * (self.k + self.alpha / self.size * total) ** -self.beta


@layer("Softmax", "softmax_param")
@dataclass(frozen=True, slots=True)
class Softmax(Elementwise):
    """exp(x) / sum of exp(x) along `axis`."""

    softmax_axis: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("axis", 1))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        canonical_axis(self.softmax_axis, len(inputs[0]))
        return inputs

    def call(self, at: Site) -> str:
        axis = at.axis(canonical_axis(self.softmax_axis, len(at.input.shape)))
        return f"nnx.softmax({arguments(at.x, axis=unless(axis, -1))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        powers = np.exp(x - x.max(self.softmax_axis, keepdims=True))
        top: Array = powers / powers.sum(self.softmax_axis, keepdims=True)
        return top
