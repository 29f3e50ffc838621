"""Pooling: the largest or the mean value of a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.layers._fields import per_axis, windows
from caffe2flax.layers.window import (
    Padding,
    Window,
    overhang,
    pool_output,
    pool_windows,
    reconcile,
)
from caffe2flax.layout import Layout, Operand, Shape
from caffe2flax.params import Params
from caffe2flax.registry import Array, Layer, Layouts, Site, arguments, layer, literal

LOWEST = float(np.finfo(np.float32).min)
"""What Caffe starts a maximum from."""


@layer("Pooling", "pooling_param")
@dataclass(frozen=True, slots=True)
class Pooling(Layer):
    """Largest value (MAX) or mean (AVE) of each window; sizes round up."""

    ends_section = True
    in_place = False
    tops = (1, 2)

    method: str = "MAX"
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    everywhere: bool = False
    ceil: bool = True
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        everywhere = params.get("global_pooling", False)
        kernel = per_axis(params, "kernel_size", "kernel")
        stride = per_axis(params, "stride", "stride")
        pad = _pad(params)
        method = params.choice("pool", "MAX", "AVE", "STOCHASTIC")
        if everywhere and kernel:
            params.error(
                "global_pooling", "global_pooling and a kernel exclude each other"
            )
        elif everywhere and (any(pad) or any(s != 1 for s in stride)):
            params.error("global_pooling", "global_pooling takes no pad and no stride")
        elif not everywhere and not kernel:
            params.error(None, "kernel_size is missing")
        if method == "STOCHASTIC":
            params.error("pool", "STOCHASTIC pooling: Caffe itself has none on CPU")
        if params.tops == 2 and method != "MAX":
            params.error("pool", "only MAX pooling has a second top, its mask")
        return cls(method, kernel, stride, pad, everywhere, ceil=_rounds_up(params))

    def _windows(self, shape: Shape) -> tuple[Window, ...]:
        if len(shape) != 4:
            raise ConversionError(f"pooling needs a blob of 4 axes, not {shape}")
        if self.everywhere:
            return tuple(Window(size) for size in shape[2:])
        return windows(2, self.kernel, self.stride, self.pad)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        clip = any(self.pad)
        sizes = (
            pool_output(size, w, ceil=self.ceil, clip=clip)
            for size, w in zip(shape[2:], self._windows(shape), strict=True)
        )
        return ((*shape[:2], *sizes),)

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        return reconcile(shape[2:], self._windows(shape), outputs[2:])

    def with_padding(self, padding: Padding) -> Pooling:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(4)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        if self.everywhere:
            function = "jnp.max" if self.method == "MAX" else "jnp.mean"
            return f"{function}({at.x}, axis=(1, 2), keepdims=True)"
        spatial = self._windows(at.input.shape)
        kernel = literal(tuple(w.kernel for w in spatial))
        stride = literal(tuple(w.stride for w in spatial))
        if self.method == "MAX":
            return (
                f"max_pool({arguments(at.x, kernel, stride, padding=self._padding())})"
            )
        over = tuple(
            overhang(size, w, out)
            for size, w, out in zip(
                at.input.shape[2:], spatial, at.output.shape[2:], strict=True
            )
        )
        pad = tuple(w.pad for w in spatial)
        return "avg_pool({})".format(
            arguments(
                at.x,
                kernel,
                stride,
                pad=literal(pad) if any(pad) else None,
                overhang=literal(over) if any(over) else None,
            )
        )

    def _padding(self) -> str | None:
        assert self.padding is not None, "reconcile_padding has not run"
        emitted = self.padding.emitted
        return None if emitted == "VALID" else literal(emitted)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        ((*_, height, width),) = self.infer(x.shape)
        rows, columns = (
            pool_windows(size, w, out)
            for size, w, out in zip(
                x.shape[2:], self._windows(x.shape), (height, width), strict=True
            )
        )
        top = np.empty((*x.shape[:2], height, width))
        for i, (y0, y1, dy) in enumerate(rows):
            for j, (x0, x1, dx) in enumerate(columns):
                window = x[:, :, y0:y1, x0:x1]
                if self.method == "MAX":
                    top[:, :, i, j] = window.max((2, 3), initial=LOWEST)
                else:
                    divisor = np.float64(dy * dx)
                    with np.errstate(invalid="ignore", divide="ignore"):
                        top[:, :, i, j] = window.sum((2, 3)) / divisor
        return top


def _pad(params: Params) -> tuple[int, ...]:
    """Caffe takes pad_h and pad_w only together."""
    if params.has("pad_h") != params.has("pad_w"):
        params.error(
            "pad_h" if params.has("pad_h") else "pad_w", "give both pad_h and pad_w"
        )
    return per_axis(params, "pad", "pad")


def _rounds_up(params: Params) -> bool:
    """`round_mode` of Caffe 1.0, or `ceil_mode` of its forks."""
    rounded = params.choice("round_mode", "CEIL", "FLOOR") == "CEIL"
    ceil = params.optional("ceil_mode", bool)
    if ceil is None:
        return rounded
    if params.has("round_mode") and ceil != rounded:
        params.error("ceil_mode", "ceil_mode contradicts round_mode")
    return ceil
