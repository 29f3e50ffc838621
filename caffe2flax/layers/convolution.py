"""Convolution: a window's weighted sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layers._fields import filler, per_axis, windows
from caffe2flax.layers.fillers import Filler
from caffe2flax.layers.window import Padding, Window, conv_output, reconcile
from caffe2flax.layout import Layout, Operand, Shape
from caffe2flax.params import Params
from caffe2flax.registry import (
    Array,
    Blob,
    Layer,
    Layouts,
    Site,
    arguments,
    canonical_axis,
    literal,
    same,
    unless,
)
from caffe2flax.registry import layer as register


@register("Convolution", "convolution_param")
@dataclass(frozen=True, slots=True)
class Convolution(Layer):
    """y[o] = b[o] + sum over c, k of w[o, c, k] * x[c, stride * i + dilation * k - pad]."""

    bottoms = (1, None)
    tops = (1, None)
    in_place = False

    num_output: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    group: int = 1
    bias: bool = True
    channel_axis: int = 1
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine", "force_nd_im2col")
        if params.bottoms != params.tops:
            params.error(None, "as many tops as bottoms are needed")
        kernel = per_axis(params, "kernel_size", "kernel")
        if not kernel:
            params.error(None, "kernel_size is missing")
        bias = params.get("bias_term", True)
        group = params.get("group", 1)
        num_output = params.require("num_output", int)
        if num_output < 1 and params.has("num_output"):
            params.error("num_output", f"num_output must be positive, not {num_output}")
        if group < 1:
            params.error("group", f"group must be positive, not {group}")
        elif num_output % group:
            params.error(
                "group", f"num_output {num_output} is no multiple of group {group}"
            )
        return cls(
            num_output,
            kernel,
            stride=per_axis(params, "stride", "stride"),
            pad=per_axis(params, "pad", "pad"),
            dilation=params.all("dilation", int),
            group=group,
            bias=bias,
            channel_axis=params.get("axis", 1),
            weight_filler=filler(params, "weight_filler"),
            bias_filler=filler(params, "bias_filler"),
        )

    def _axis(self, shape: Shape) -> int:
        axis = canonical_axis(self.channel_axis, len(shape))
        if axis == len(shape) - 1:
            raise ConversionError(f"a blob of shape {shape} leaves no spatial axes")
        return axis

    def _windows(self, spatial: int) -> tuple[Window, ...]:
        return windows(spatial, self.kernel, self.stride, self.pad, self.dilation)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape = inputs[0]
        if any(other != shape for other in inputs[1:]):
            raise ConversionError(f"all bottoms must have one shape, not {inputs}")
        axis = self._axis(shape)
        if shape[axis] % self.group:
            raise ConversionError(
                f"{shape[axis]} input channels are no multiple of group {self.group}"
            )
        spatial = shape[axis + 1 :]
        sizes = map(conv_output, spatial, self._windows(len(spatial)))
        return ((*shape[:axis], self.num_output, *sizes),) * len(inputs)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        axis = self._axis(inputs[0])
        spatial = self._windows(len(inputs[0]) - axis - 1)
        kernel = tuple(w.kernel for w in spatial)
        channels = inputs[0][axis] // self.group
        weight = Blob((self.num_output, channels, *kernel), self.weight_filler)
        bias = Blob((self.num_output,), self.bias_filler)
        return (weight, bias) if self.bias else (weight,)

    def names(self) -> tuple[str, ...]:
        return ("kernel", "bias")

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        axis = self._axis(shape)
        spatial = shape[axis + 1 :]
        return reconcile(spatial, self._windows(len(spatial)), outputs[axis + 1 :])

    def with_padding(self, padding: Padding) -> Convolution:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        rank = len(inputs[0].shape)
        layout = Layout.channels_last(rank, self._axis(inputs[0].shape))
        return Layouts((layout,) * len(inputs), (layout,) * len(inputs))

    def build(self, at: Site) -> str:
        shape = at.input.shape
        axis = self._axis(shape)
        spatial = self._windows(len(shape) - axis - 1)
        kernel = tuple(w.kernel for w in spatial)
        channels = shape[axis]
        return "nnx.Conv({})".format(
            arguments(
                channels,
                self.num_output,
                literal(kernel),
                strides=unless(same([w.stride for w in spatial]), 1),
                padding=self._padding(spatial),
                kernel_dilation=unless(same([w.dilation for w in spatial]), 1),
                feature_group_count=unless(self.group, 1),
                use_bias=unless(self.bias, True),
                conv_general_dilated=self._formulation(channels),
                **self._initialisers(at),
                dtype="dtype",
                rngs="rngs",
            )
        )

    def _padding(self, spatial: tuple[Window, ...]) -> str | None:
        assert self.padding is not None, "reconcile_padding has not run"
        if all(w == Window(1) for w in spatial):
            return None  # a single pixel: Flax's default pads nothing either
        emitted = self.padding.emitted
        if isinstance(emitted, str):
            return unless(emitted, "SAME")
        if all(low == high for low, high in emitted):
            return literal(same([low for low, _ in emitted]))
        return literal(emitted)

    def _formulation(self, channels: int) -> str | None:
        if self.group == 1:
            return None
        return "depthwise_conv" if self.group == channels else "grouped_conv"

    def _initialisers(self, at: Site) -> dict[str, str | None]:
        if not at.initialise:
            return {}
        weight, *bias = self.blobs(at.input.shape)
        rank = len(weight.shape)
        kernel_axes = (*range(2, rank), 1, 0)
        return {
            "kernel_init": weight.filler.initializer(weight.shape, kernel_axes),
            "bias_init": bias_initialiser(bias[0]) if bias else None,
        }

    def call(self, at: Site) -> str:
        return ", ".join(f"{at.module}({x})" for x in at.args)

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        kernel = blobs[0].transpose(*range(2, blobs[0].ndim), 1, 0)
        return {"kernel": kernel} | ({"bias": blobs[1]} if self.bias else {})

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        outputs = tuple(self._convolve(blobs, x) for x in inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def _convolve(self, blobs: Sequence[Array], x: Array) -> Array:
        """One product of matrices for each position of the kernel."""
        axis = self._axis(x.shape)
        (shape,) = self.infer(x.shape)
        spatial = self._windows(x.ndim - axis - 1)
        batch, channels, sizes = x.shape[:axis], x.shape[axis], shape[axis + 1 :]
        pads = [(w.pad, w.pad + w.extent + w.stride) for w in spatial]
        padded = np.pad(
            x.reshape(-1, channels, *x.shape[axis + 1 :]), [(0, 0)] * 2 + pads
        )
        weight = blobs[0].reshape(self.group, -1, *blobs[0].shape[1:])
        total = np.zeros(
            (len(padded), self.group, weight.shape[1], int(np.prod(sizes)))
        )
        for taps in product(*(range(w.kernel) for w in spatial)):
            at = (tap * w.dilation for tap, w in zip(taps, spatial, strict=True))
            cut = tuple(
                slice(start, start + (size - 1) * w.stride + 1, w.stride)
                for start, size, w in zip(at, sizes, spatial, strict=True)
            )
            pixels = padded[(slice(None), slice(None), *cut)]
            columns = pixels.reshape(len(padded), self.group, weight.shape[2], -1)
            total += weight[(slice(None),) * 3 + taps] @ columns
        if self.bias:
            total += blobs[1].reshape(self.group, -1, 1)
        return total.reshape(*batch, self.num_output, *sizes)


def bias_initialiser(blob: Blob) -> str | None:
    """None where the filler is Flax's own, zeros."""
    if blob.filler == Filler():
        return None
    return blob.filler.initializer(blob.shape, tuple(range(len(blob.shape))))
