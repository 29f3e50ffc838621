"""Scale and bias layers of Caffe's forks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import RNGS, Call
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Elementwise, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import along, arranged, initializer
from caffe2flax.layers._fields import filler

SLOPE = Filler("constant", value=1.0001)
OFFSET = Filler("constant", value=0.0001)


@layer("Axpy")
@dataclass(frozen=True, slots=True)
class Axpy(Layer):
    """a * x + y, with a factor a (N, C) for each channel of x and y."""

    bottoms = 3
    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        a, x, y = inputs
        if len(x) != 4 or x != y:
            raise ConversionError(f"x and y need one shape of 4 axes, not {x} and {y}")
        if a[:2] != x[:2] or prod(a[2:]) != 1 or len(a) not in (2, 4):
            raise ConversionError(f"the factors {a} do not fit {x}: one a channel")
        return (x,)

    def layouts(self, *inputs: Operand) -> Layouts:
        image = Layout.channels_last(4)
        factor = image if len(inputs[0].shape) == 4 else Layout.caffe(2)
        return Layouts((factor, image, image), (image,))

    def call(self, at: Site) -> str:
        a, x, y = at.operands
        if len(at.input.shape) == 2:
            a = f"jnp.expand_dims({a}, (1, 2))"
        return f"{a} * {x} + {y}"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        a, x, y = inputs
        top: Array = a.reshape(*x.shape[:2], 1, 1) * x + y
        return top


@layer("EltwiseAffine", "eltwise_affine_param")
@dataclass(frozen=True, slots=True)
class EltwiseAffine(Elementwise):
    """x * slope + bias, a channel at a time or one for all."""

    shared: bool = False
    slope_filler: Filler = SLOPE
    bias_filler: Filler = OFFSET

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(
            params.get("channel_shared", False),
            filler(params, "slope_filler", SLOPE.value),
            filler(params, "bias_filler", OFFSET.value),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if not 2 <= len(inputs[0]) <= 4:
            raise ConversionError(f"needs a blob of 2 to 4 axes, not {inputs[0]}")
        return inputs

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        shape = () if self.shared else (inputs[0][1],)
        return Blob(shape, self.slope_filler), Blob(shape, self.bias_filler)

    def names(self) -> tuple[str, ...]:
        return ("scale", "bias")

    def build(self, at: Site) -> Call:
        shape, lacking = arranged(at.input, 1, 1 if self.shared else 2)
        slope, bias = self.blobs(at.input.shape)
        ones, zeros = Filler("constant", value=1.0), Filler()
        return Call.of(
            "Scale",
            *((shape, lacking) if lacking else (shape,)),
            scale_init=initializer(at.initialise, slope.filler, shape, ones),
            bias_init=initializer(at.initialise, bias.filler, shape, zeros),
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        named = zip(self.names(), blobs, strict=True)
        return {name: at.input.arrange_blob(blob, 1) for name, blob in named}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        slope, bias = (b if self.shared else along(b, x, 1) for b in blobs)
        top: Array = x * slope + bias
        return top


@layer("ChannelScale", "channel_scale_param")
@dataclass(frozen=True, slots=True)
class ChannelScale(Layer):
    """x times a factor for each pixel, the same one for all channels."""

    bottoms = 2
    in_place = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("do_backward_feature", "do_backward_scale")
        params.ignore("max_global_scale", "min_global_scale", "init_global_scale")
        if not params.get("do_forward", True):
            params.unsupported(
                "do_forward", "without its forward pass it is not converted"
            )
        if params.get("global_scale", False):
            params.unsupported("global_scale", "a global scale is not converted")
        return cls()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, scale = inputs
        if len(x) < 2 or scale != (x[0], 1, *x[2:]):
            raise ConversionError(f"{scale} are no factors for each pixel of {x}")
        return (x,)

    def layouts(self, *inputs: Operand) -> Layouts:
        axes = inputs[0].layout.axes
        layout = Layout(axes, ((),) * len(axes))
        return Layouts((layout, layout), (layout,))

    def call(self, at: Site) -> str:
        x, scale = at.operands
        return f"{x} * {scale}"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = inputs[0] * inputs[1]
        return top
