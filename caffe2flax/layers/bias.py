"""Bias: a learned blob, or a second bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.ir.call import RNGS, Call
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import (
    CHANNELS,
    AxisRange,
    along,
    arranged,
    expanded,
    initializer,
    joined,
    shapes,
)
from caffe2flax.layers._fields import filler


@layer("Bias", "bias_param")
@dataclass(frozen=True, slots=True)
class Bias(Layer):
    """x + bias, on `num_axes` axes of x from `axis` on.

    A second bottom is the bias.
    """

    bottoms = (1, 2)

    axis_range: AxisRange = CHANNELS
    filler: Filler = Filler()
    second: bool = False
    """Whether the bias is a second bottom."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(
            AxisRange.parse(params), filler(params, "filler"), params.bottoms == 2
        )

    def _span(self, *inputs: Shape) -> tuple[int, int]:
        if self.second:
            return self.axis_range.second(*inputs)
        return self.axis_range.of(inputs[0])

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        self._span(*inputs)
        return inputs[:1]

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        if self.second:
            return ()
        return (Blob(self.axis_range.shape(inputs[0]), self.filler),)

    def names(self) -> tuple[str, ...]:
        return ("bias",)

    def layouts(self, *inputs: Operand) -> Layouts:
        if not self.second:
            return Layouts((inputs[0].layout,), (inputs[0].layout,))
        x, other = inputs
        return joined(x, other, self._span(*shapes(inputs))[0])

    def build(self, at: Site) -> Call | None:
        if self.second:
            return None
        shape, lacking = arranged(at.input, *self._span(at.input.shape))
        (blob,) = self.blobs(at.input.shape)
        init = initializer(at.initialise, blob.filler, blob.shape, Filler())
        where = (shape, lacking) if lacking else (shape,)
        return Call.of("Bias", *where, bias_init=init, rngs=RNGS)

    def call(self, at: Site) -> str:
        if not self.second:
            return f"{at.module}({at.x})"
        x, bias = at.operands
        return f"{x} + {expanded(at.input, bias, *self._span(*shapes(at.inputs)))}"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        start, _ = self._span(at.input.shape)
        return {"bias": at.input.arrange_blob(blobs[0], start)}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        start, _ = self._span(*(x.shape for x in inputs))
        x, bias = [*inputs, *blobs]
        top: Array = x + along(bias, x, start)
        return top
