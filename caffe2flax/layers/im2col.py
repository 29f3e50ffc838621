"""Im2col: the windows of a convolution as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Windowed
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import Padding, caption, conv_output, overhang, reconcile
from caffe2flax.layers._fields import Sliding


@layer("Im2col", "convolution_param")
@dataclass(frozen=True, slots=True)
class Im2col(Layer, Windowed):
    """y[(c, k), i] = x[c, stride * i + dilation * k - pad]."""

    in_place = False

    sliding: Sliding
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("num_output", "bias_term", "group")
        params.ignore("weight_filler", "bias_filler")
        return cls(Sliding.parse(params))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        axis = self.sliding.channel_axis(shape)
        spatial = self.sliding.windows(shape)
        if not spatial:
            raise ConversionError(f"a blob of shape {shape} leaves no spatial axes")
        columns = shape[axis] * prod(w.kernel for w in spatial)
        sizes = map(conv_output, shape[axis + 1 :], spatial)
        return ((*shape[:axis], columns, *sizes),)

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        first = self.sliding.channel_axis(shape) + 1
        return reconcile(shape[first:], self.sliding.windows(shape), outputs[first:])

    def caption(self, *inputs: Shape) -> str:
        return caption(self.sliding.windows(inputs[0]))

    def with_padding(self, padding: Padding) -> Im2col:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        """Channels last; the columns are in Caffe's order."""
        shape = inputs[0].shape
        layout = Layout.channels_last(len(shape), self.sliding.channel_axis(shape))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        assert self.padding is not None, "reconcile_padding has not run"
        spatial = self.sliding.windows(at.input.shape)
        dilation = tuple(w.dilation for w in spatial)
        emitted = self.padding.emitted
        return "im2col({})".format(
            arguments(
                at.x,
                literal(tuple(w.kernel for w in spatial)),
                literal(tuple(w.stride for w in spatial)),
                padding=unless(emitted, "VALID"),
                dilation=literal(dilation) if set(dilation) != {1} else None,
            )
        )

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        axis = self.sliding.channel_axis(x.shape)
        (shape,) = self.infer(x.shape)
        spatial = self.sliding.windows(x.shape)
        sizes = shape[axis + 1 :]
        pads = [
            (w.pad, w.pad + overhang(extent, w, size))
            for extent, w, size in zip(x.shape[axis + 1 :], spatial, sizes, strict=True)
        ]
        padded = np.pad(x, [(0, 0)] * (axis + 1) + pads)
        columns = []
        for taps in product(*(range(w.kernel) for w in spatial)):
            at = (tap * w.dilation for tap, w in zip(taps, spatial, strict=True))
            cut = tuple(
                slice(start, start + (size - 1) * w.stride + 1, w.stride)
                for start, size, w in zip(at, sizes, spatial, strict=True)
            )
            columns.append(padded[(slice(None),) * (axis + 1) + cut])
        return np.stack(columns, axis + 1).reshape(shape)
