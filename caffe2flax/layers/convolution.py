"""Convolution: a window's weighted sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Abbreviated, Windowed
from caffe2flax.ir.call import DTYPE, PRECISION, RNGS, Call, Code, same
from caffe2flax.ir.classes import PerClass
from caffe2flax.ir.coordinates import CoordinateMap, Spatial, shrinking
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer as register
from caffe2flax.ir.window import (
    Padding,
    Window,
    caption,
    conv_output,
    reconcile,
)
from caffe2flax.layers._convolved import convolve
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


@register("NdConvolution", "convolution_param")
@register("Convolution", "convolution_param")
@dataclass(frozen=True, slots=True)
class Convolution(Layer, Spatial, Windowed, Abbreviated, PerClass):
    """y[o, i] = b[o] + sum of w[o, c, k] * x[c, stride * i + dilation * k - pad]."""

    abbreviation = "conv"

    bottoms = (1, None)
    tops = (1, None)
    in_place = False

    num_output: int
    sliding: Sliding
    group: int = 1
    bias: bool = True
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.bottoms != params.tops:
            params.error(None, "as many tops as bottoms are needed")
        num_output, group = output_counts(params)
        refuse_quantised(params)
        return cls(
            num_output,
            Sliding.parse(params, sides=True),
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
        sizes = map(conv_output, shape[axis + 1 :], self.sliding.windows(shape))
        return ((*shape[:axis], self.num_output, *sizes),) * len(inputs)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        channels = inputs[0][self.sliding.channel_axis(inputs[0])] // self.group
        kernel = (w.kernel for w in self.sliding.windows(inputs[0]))
        weight = Blob((self.num_output, channels, *kernel), self.weight_filler)
        bias = Blob((self.num_output,), self.bias_filler)
        return (weight, bias) if self.bias else (weight,)

    def multiply_adds(self, *inputs: Shape) -> int:
        weight, output = self.blobs(*inputs)[0], self.infer(*inputs)[0]
        return prod(output) * prod(weight.shape[1:]) * len(inputs)

    def names(self) -> tuple[str, ...]:
        return ("kernel", "bias")

    def caption(self, *inputs: Shape) -> str:
        group = f", group {self.group}" if self.group > 1 else ""
        windows = self.sliding.windows(inputs[0])
        return f"{self.num_output}, {caption(windows)}{group}"

    def coordinate_map(self) -> CoordinateMap | None:
        if self.sliding.sides.same:
            return None
        return shrinking(self.sliding.windows((1,) * 4))

    def with_classes(self, count: int, other: int) -> Convolution | None:
        times, rest = divmod(self.num_output, count)
        return (
            None if rest or self.group > 1 else replace(self, num_output=times * other)
        )

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        first = self.sliding.channel_axis(shape) + 1
        spatial = self.sliding.windows(shape)
        padding = reconcile(shape[first:], spatial, outputs[first:])
        return self.sliding.sides.named(padding)

    def with_padding(self, padding: Padding) -> Convolution:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        shape = inputs[0].shape
        layout = Layout.channels_last(len(shape), self.sliding.channel_axis(shape))
        return Layouts((layout,) * len(inputs), (layout,) * len(inputs))

    def build(self, at: Site) -> Call:
        shape = at.input.shape
        spatial = self.sliding.windows(shape)
        channels = shape[self.sliding.channel_axis(shape)]
        blobs = self.blobs(shape)
        weight = blobs[0]
        axes = kernel_axes(len(weight.shape))
        kernel_init = Code(weight.filler.initializer(weight.shape, axes))
        return Call.of(
            "nnx.Conv",
            channels,
            self.num_output,
            tuple(w.kernel for w in spatial),
            strides=same([w.stride for w in spatial] or [1]),
            padding=self._padding(spatial),
            kernel_dilation=same([w.dilation for w in spatial] or [1]),
            feature_group_count=self.group,
            use_bias=self.bias,
            **initialisers(at, blobs, kernel_init),
            dtype=DTYPE,
            precision=PRECISION,
            rngs=RNGS,
        )

    def _padding(self, spatial: tuple[Window, ...]) -> object:
        assert self.padding is not None, "reconcile_padding has not run"
        if all(w.kernel == 1 and w.pad == w.high == 0 for w in spatial):
            return "SAME"  # a kernel of one pixel: no padding, for any stride
        emitted = self.padding.emitted
        if not isinstance(emitted, str) and all(low == high for low, high in emitted):
            return same([low for low, _ in emitted])
        return emitted

    def call(self, at: Site) -> str:
        return ", ".join(f"{at.module}({x})" for x in at.args)

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        kernel = blobs[0].transpose(kernel_axes(blobs[0].ndim))
        return {"kernel": kernel} | ({"bias": blobs[1]} if self.bias else {})

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        outputs = tuple(self._convolve(blobs, x) for x in inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def _convolve(self, blobs: Sequence[Array], x: Array) -> Array:
        axis = self.sliding.channel_axis(x.shape)
        (shape,) = self.infer(x.shape)
        # One pixel where there are no spatial axes.
        spatial = self.sliding.windows(x.shape) or (Window(1),)
        pixels = x.reshape(-1, x.shape[axis], *(x.shape[axis + 1 :] or (1,)))
        sizes = shape[axis + 1 :] or (1,)
        total = convolve(pixels, blobs[0], spatial, sizes, self.group)
        if self.bias:
            total += blobs[1].reshape(-1, *(1,) * len(sizes))
        return total.reshape(shape)


@register("ConvolutionDepthwise", "convolution_param")
@dataclass(frozen=True, slots=True)
class ConvolutionDepthwise(Convolution):
    """y[c, i] = b[c] + sum of w[c, k] * x[c, stride * i + dilation * k - pad]."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        parsed = super(ConvolutionDepthwise, cls).parse(params)
        if params.has("group") and parsed.group != parsed.num_output:
            params.note(
                f"{params.span('group')}: a group for each of {parsed.num_output} "
                f"channels, whatever group says: {parsed.group} here"
            )
        return replace(parsed, group=parsed.num_output)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        channels = inputs[0][self.sliding.channel_axis(inputs[0])]
        if channels != self.num_output:
            raise ConversionError(
                f"num_output must be the number of channels, {channels}, "
                f"not {self.num_output}"
            )
        return super(ConvolutionDepthwise, self).infer(*inputs)


@register("DepthwiseConvolution", "convolution_param")
@dataclass(frozen=True, slots=True)
class DepthwiseConvolution(ConvolutionDepthwise):
    """y[c, i] = b[c] + sum of w[c, k] * x[c, stride * i + dilation * k - pad]."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        parsed = super(DepthwiseConvolution, cls).parse(params)
        if params.has("group") and params.get("group", 1) != parsed.num_output:
            text = f"a group for each of {parsed.num_output} channels is needed"
            params.error("group", text)
        meaning = params.dialect("DepthwiseConvolution")
        if params.has("group") or parsed.num_output == 1 or meaning == "depthwise":
            return parsed
        if not meaning:
            assert params.parent is not None
            held = params.weights.get(params.parent.get("name", ""), ())
            if held and held[0][1:2] == (1,):
                why = f"its weights are {held[0]}"
                params.decided("DepthwiseConvolution", "depthwise", why)
                return parsed
            params.undecided("DepthwiseConvolution")
        return replace(parsed, group=1)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if self.group == 1:
            return Convolution.infer(self, *inputs)
        return super(DepthwiseConvolution, self).infer(*inputs)


@register("CONVOLUTION3D", "convolution_param")
@register("Convolution3D", "convolution3d_param", "convolution_param")
@dataclass(frozen=True, slots=True)
class Convolution3D(Convolution):
    """y[o, i] = b[o] + sum of w[o, c, k] * x[c, stride * i + k - pad], of frames."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        given = older_or_own(params, "convolution_param")
        given.ignore("filter_group")
        if given.get("group", 1) != 1:
            given.unsupported(
                "group", "the fork that has this type does nothing with group"
            )
        size, depth = (
            given.require("kernel_size", int),
            given.require("kernel_depth", int),
        )
        kernel, stride, pad = (
            (depth, size, size),
            (given.get("temporal_stride", 1), *(given.get("stride", 1),) * 2),
            (given.get("temporal_pad", 0), *(given.get("pad", 0),) * 2),
        )
        return cls(
            output_counts(given)[0],
            Sliding(kernel, stride, pad),
            1,
            given.get("bias_term", True),
            filler(given, "weight_filler"),
            filler(given, "bias_filler"),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 5:
            raise ConversionError(f"frames need a blob of 5 axes, not {inputs[0]}")
        return super(Convolution3D, self).infer(*inputs)

    def coordinate_map(self) -> None:
        return None
