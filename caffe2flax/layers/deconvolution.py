"""Deconvolution, of images and of frames: a convolution's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import DTYPE, PRECISION, RNGS, Call, Code, same
from caffe2flax.ir.classes import PerClass
from caffe2flax.ir.coordinates import CoordinateMap, Spatial, growing
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Arity, Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Merged, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import caption, deconv_output
from caffe2flax.layers._convolved import padded
from caffe2flax.layers._fields import (
    Sliding,
    filler,
    initialisers,
    kernel_axes,
    older_or_own,
    one_shape,
    output_counts,
)
from caffe2flax.layers._sides import refuse_quantised

DIRECT = ("constant", "uniform", "gaussian", "bilinear")
"""Fillers that do not depend on the order of the axes, or on reversed kernels."""


@layer("Deconvolution", "convolution_param")
@dataclass(frozen=True, slots=True)
class Deconvolution(Layer, Spatial, PerClass):
    """y[o, stride * i + dilation * k - pad] = b[o] + sum of w[c, o, k] * x[c, i]."""

    bottoms: ClassVar[Arity] = (1, None)
    tops: ClassVar[Arity] = (1, None)
    in_place = False

    num_output: int
    sliding: Sliding
    group: int = 1
    bias: bool = True
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.bottoms != params.tops:
            params.error(None, "as many tops as bottoms are needed")
        num_output, group = output_counts(params, transposed=True)
        refuse_quantised(params)
        sliding = Sliding.parse(params, sides=True)
        if sliding.sides.same:
            text = "the fork reads outside its buffers here; give pad_l, pad_t, pad_r, "
            params.unsupported("pad_type", text + "pad_b")
        return cls(
            num_output,
            sliding,
            group,
            params.get("bias_term", True),
            filler(params, "weight_filler"),
            filler(params, "bias_filler"),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape = one_shape(inputs)
        axis = self.sliding.channel_axis(shape)
        if shape[axis] % self.group:
            raise ConversionError(
                f"{shape[axis]} input channels are no multiple of group {self.group}"
            )
        sizes = map(deconv_output, shape[axis + 1 :], self.sliding.windows(shape))
        return ((*shape[:axis], self.num_output, *sizes),) * len(inputs)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        channels = inputs[0][self.sliding.channel_axis(inputs[0])]
        kernel = (w.kernel for w in self.sliding.windows(inputs[0]))
        shape = (channels, self.num_output // self.group, *kernel)
        bias = Blob((self.num_output,), self.bias_filler)
        return (Blob(shape, self.weight_filler), *([bias] if self.bias else []))

    def multiply_adds(self, *inputs: Shape) -> int:
        return prod(inputs[0]) * prod(self.blobs(*inputs)[0].shape[1:]) * len(inputs)

    def names(self) -> tuple[str, ...]:
        return ("kernel", "bias")

    def caption(self, *inputs: Shape) -> str:
        group = f", group {self.group}" if self.group > 1 else ""
        windows = self.sliding.windows(inputs[0])
        return f"{self.num_output}, {caption(windows)}{group}"

    def coordinate_map(self) -> CoordinateMap | None:
        return growing(self.sliding.windows((1,) * 4))

    def with_classes(self, count: int, other: int) -> Deconvolution | None:
        if not self.group == self.num_output == count:
            return None
        return replace(self, num_output=other, group=other)

    def layouts(self, *inputs: Operand) -> Layouts:
        shape = inputs[0].shape
        layout = Layout.channels_last(len(shape), self.sliding.channel_axis(shape))
        return Layouts((layout,) * len(inputs), (layout,) * len(inputs))

    def build(self, at: Site) -> Call:
        """nnx.ConvTranspose; with groups, which that lacks, an nnx.Conv over the
        dilated input."""
        shape = at.input.shape
        spatial = self.sliding.windows(shape)
        # Flax counts pads from the position at which a window covers one pixel only.
        padding = tuple((w.extent - 1 - w.pad, w.extent - 1 - w.high) for w in spatial)
        even = len({pad for pair in padding for pad in pair}) == 1
        stride = same([w.stride for w in spatial] or [1])
        blobs = self.blobs(shape)
        own: dict[str, object] = {"strides": stride, "transpose_kernel": True}
        if self.group > 1:
            own = {"input_dilation": stride, "feature_group_count": self.group}
        return Call.of(
            "nnx.Conv" if self.group > 1 else "nnx.ConvTranspose",
            shape[self.sliding.channel_axis(shape)],
            self.num_output,
            tuple(w.kernel for w in spatial),
            padding=(padding[0][0] if even else padding) if spatial else None,
            kernel_dilation=same([w.dilation for w in spatial] or [1]),
            use_bias=self.bias,
            **own,
            **initialisers(at, blobs, self._kernel_init(blobs[0])),
            dtype=DTYPE,
            precision=PRECISION,
            rngs=RNGS,
        )

    def _kernel_init(self, weight: Blob) -> Code | Call:
        axes = kernel_axes(len(weight.shape))
        init = Code(weight.filler.initializer(weight.shape, axes))
        direct = weight.filler.type in DIRECT and weight.filler.sparse < 0
        if self.group == 1 or direct:
            return init
        return Call("grouped_transpose_init", (init, self.group))

    def call(self, at: Site) -> str:
        return ", ".join(f"{at.module}({x})" for x in at.args)

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array | Merged]:
        """(c, o / group, *window) as (*window, o, c) for nnx.ConvTranspose, or turned
        around as (*window, c / group, o) for nnx.Conv."""
        weight = blobs[0]
        kernel: Array | Merged = weight.transpose(kernel_axes(weight.ndim))
        if self.group > 1:
            inputs, outputs, *window = weight.shape
            size = inputs // self.group
            split = weight.reshape(self.group, size, *weight.shape[1:])
            turned = np.flip(split, tuple(range(3, split.ndim)))
            view = turned.transpose(*range(3, split.ndim), 1, 0, 2)
            kernel = Merged(view, (*window, size, self.group * outputs))
        return {"kernel": kernel} | ({"bias": blobs[1]} if self.bias else {})

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        outputs = tuple(self._spread(blobs, x) for x in inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def _spread(self, blobs: Sequence[Array], x: Array) -> Array:
        """Each pixel of x adds its products with the kernel to a window of the top."""
        axis = self.sliding.channel_axis(x.shape)
        (shape,) = self.infer(x.shape)
        spatial = self.sliding.windows(x.shape)
        sizes, outs = x.shape[axis + 1 :], shape[axis + 1 :]
        pixels = x.reshape(-1, self.group, x.shape[axis] // self.group, prod(sizes))
        weight = blobs[0].reshape(self.group, pixels.shape[2], *blobs[0].shape[1:])
        full = [
            w.stride * (size - 1) + w.extent
            for size, w in zip(sizes, spatial, strict=True)
        ]
        total = np.zeros((len(pixels), self.num_output, *full))
        for taps in product(*(range(w.kernel) for w in spatial)):
            tap = weight[(slice(None),) * 3 + taps]
            added = tap.swapaxes(1, 2) @ pixels
            at = tuple(
                slice(
                    i * w.dilation, i * w.dilation + (size - 1) * w.stride + 1, w.stride
                )
                for i, size, w in zip(taps, sizes, spatial, strict=True)
            )
            total[(slice(None), slice(None), *at)] += added.reshape(
                len(pixels), self.num_output, *sizes
            )
        top = padded(total, [(-w.pad, -w.high) for w in spatial])
        if self.bias:
            top = top + blobs[1].reshape(-1, *(1,) * len(outs))
        return top.reshape(shape)


@layer("DECONVOLUTION3D", "convolution_param")
@layer("Deconvolution3D", "convolution3d_param", "convolution_param")
class Deconvolution3D(Deconvolution):
    """y[o, stride * i + k - pad] = b[o] + sum of w[c, o, k] * x[c, i], of frames."""

    __slots__ = ()

    bottoms = 1
    tops = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        given = older_or_own(params, "convolution_param")
        for name in ("group", "filter_group"):
            if given.get(name, 1) != 1:
                text = f"the fork that has this type does nothing certain with {name}"
                given.unsupported(name, text)
        size, depth = (given.require(f"kernel_{n}", int) for n in ("size", "depth"))
        return cls(
            output_counts(given)[0],
            Sliding(
                (depth, size, size),
                (given.get("temporal_stride", 1), *(given.get("stride", 1),) * 2),
                (given.get("temporal_pad", 0), *(given.get("pad", 0),) * 2),
            ),
            1,
            given.get("bias_term", True),
            filler(given, "weight_filler"),
            filler(given, "bias_filler"),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 5:
            raise ConversionError(f"frames need a blob of 5 axes, not {inputs[0]}")
        return super().infer(*inputs)

    def coordinate_map(self) -> None:
        return None
