"""Pooling with dilation, of naibaf7's fork."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import variant
from caffe2flax.ir.window import Window, pool_output
from caffe2flax.layers._fields import pair, windows

LOWEST = float(np.finfo(np.float32).min)


@variant("Pooling", lambda params: any(d != 1 for d in params.all("dilation", int)))
@dataclass(frozen=True, slots=True)
class DilatedPooling(Layer):
    """Largest value (MAX) or mean (AVE) of the pixels of each window, which are
    `dilation` apart; sizes round up. The mean is over those in the image and its
    pad."""

    in_place = False

    method: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        if params.get("global_pooling", False):
            params.error("global_pooling", "global_pooling takes no dilation")
        kernel = pair(params, "kernel_size", "kernel")
        if not kernel:
            params.missing("kernel_size", "kernel_size is missing")
        return cls(
            params.choice("pool", "MAX", "AVE"),
            kernel or (1,),
            pair(params, "stride", "stride"),
            pair(params, "pad", "pad"),
            params.all("dilation", int),
        )

    def _windows(self, shape: Shape) -> tuple[Window, ...]:
        if len(shape) < 3:
            raise ConversionError(f"pooling needs a blob of 3 axes or more: {shape}")
        rank = len(shape) - 2
        return windows(rank, self.kernel, self.stride, self.pad, self.dilation)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        sizes = []
        for size, w in zip(shape[2:], self._windows(shape), strict=True):
            if w.pad >= w.kernel:
                text = f"pad {w.pad} must be less than kernel {w.kernel}"
                raise ConversionError(text)
            plain = replace(w, kernel=w.extent, dilation=1)
            sizes.append(pool_output(size, plain, ceil=True, clip=w.pad > 0))
        return ((*shape[:2], *sizes),)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(len(inputs[0].shape))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        spatial = self._windows(at.input.shape)
        pads = []
        for size, w, out in zip(
            at.input.shape[2:], spatial, at.output.shape[2:], strict=True
        ):
            reach = (out - 1) * w.stride + w.extent - w.pad - size
            pads.append((w.pad, max(reach, 0)))
        given = arguments(
            at.x,
            literal(tuple(w.kernel for w in spatial)),
            literal(tuple(w.stride for w in spatial)),
            literal(tuple(pads)),
            literal(tuple(w.dilation for w in spatial)),
        )
        return f"dilated_{self.method.lower()}_pool({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        counts: Array = np.ones(())
        for axis, (w, out) in enumerate(
            zip(self._windows(x.shape), shape[2:], strict=True), 2
        ):
            size = x.shape[axis]
            starts = np.arange(out)[:, None] * w.stride - w.pad
            places = starts + np.arange(w.kernel) * w.dilation
            inside = (places >= 0) & (places < size)
            counts = np.multiply.outer(counts, (places < size + w.pad).sum(1))
            taken = np.moveaxis(x.take(places.clip(0, size - 1), axis), axis + 1, -1)
            taken = np.moveaxis(taken, axis, -2)
            if self.method == "MAX":
                best = np.where(inside, taken, LOWEST).max(-1)
            else:
                best = np.where(inside, taken, 0).sum(-1)
            x = np.moveaxis(best, -1, axis)
        return x if self.method == "MAX" else np.asarray(x / counts)
