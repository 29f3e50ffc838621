"""Pooling: the largest value of a window, its mean, or a draw from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import (
    Abbreviated,
    EndsSection,
    MakesMask,
    Stochastic,
    Windowed,
)
from caffe2flax.ir.call import Call
from caffe2flax.ir.coordinates import CoordinateMap, Spatial, shrinking
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.ir.window import (
    Padding,
    Window,
    caption,
    pool_windows,
    reconcile,
)
from caffe2flax.layers._fields import pair, windows
from caffe2flax.layers._pooled import draw, pooled, slide, weighted
from caffe2flax.layers._pooling import avg_pool, max_pool, overhangs
from caffe2flax.layers._sides import AS_GIVEN, Sides, read_sides, refuse_quantised

METHODS = ("MAX", "AVE", "STOCHASTIC", "AVE_EXC_PAD")


@layer("Pooling", "pooling_param")
@dataclass(frozen=True, slots=True)
class Pooling(Layer, Spatial, Windowed, MakesMask, EndsSection, Abbreviated):
    """Largest value (MAX) or mean (AVE) of each window, or a draw from it (STOCHASTIC);
    sizes round up. AVE_EXC_PAD of a fork is the mean of the pixels alone."""

    abbreviation = "pool"

    in_place = False
    tops = (1, 2)

    method: str = "MAX"
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    everywhere: bool = False
    ceil: bool = True
    top_count: int = 1
    """How many tops it has; the second is the mask."""
    sides: Sides = AS_GIVEN
    padding: Padding | None = None

    @classmethod
    def parse(cls, params: Params) -> Layer:
        params.ignore("engine", "dilation")  # a dilation of 1: others have a variant
        refuse_quantised(params)
        everywhere = params.get("global_pooling", False)
        kernel = pair(params, "kernel_size", "kernel")
        stride = pair(params, "stride", "stride")
        pad = pair(params, "pad", "pad")
        sides = read_sides(params, signed=False)
        method = params.choice("pool", *METHODS, older={"AVE_TF": "AVE_EXC_PAD"})
        padded = any(pad) or sides != AS_GIVEN
        if everywhere and kernel:
            params.error(
                "global_pooling", "global_pooling and a kernel exclude each other"
            )
        elif everywhere and (padded or any(s != 1 for s in stride)):
            params.error("global_pooling", "global_pooling takes no pad and no stride")
        elif not everywhere and not kernel:
            params.missing("kernel_size", "kernel_size is missing")
        if params.tops == 2 and method != "MAX":
            params.error("pool", "only MAX pooling has a second top, its mask")
        if method == "STOCHASTIC" and padded:
            params.error("pool", "STOCHASTIC pooling takes no pad")
        rounds_up = _rounds_up(params) and not sides.same
        given = (method, kernel, stride, pad, everywhere, rounds_up, params.tops)
        if method == "STOCHASTIC":
            return StochasticPooling(*given, training=params.phase == "TRAIN")
        return cls(*given, sides)

    def _windows(self, shape: Shape) -> tuple[Window, ...]:
        if len(shape) not in (4, 5):
            text = "pooling needs a blob of 4 axes, or of 5 in forks"
            raise ConversionError(f"{text}, not {shape}")
        if len(shape) == 5 and self.top_count == 2:
            raise ConversionError(f"a mask needs a blob of 4 axes, not {shape}")
        if self.everywhere:
            return tuple(Window(size) for size in shape[2:])
        given = windows(len(shape) - 2, self.kernel, self.stride, self.pad)
        return self.sides.around(given, shape[2:])

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        spatial = self._windows(shape)
        sizes = pooled(shape[2:], spatial, ceil=self.ceil)
        if self.method == "AVE_EXC_PAD" and reconcile(shape[2:], spatial, sizes).empty:
            raise ConversionError("the mean of a window that has no pixel is undefined")
        return ((*shape[:2], *sizes),) * self.top_count

    def masked(self, shape: Shape) -> tuple[tuple[int, int], int] | None:
        if self.top_count < 2:
            return None
        height, width = shape[2:]
        outs = self.infer(shape)[0][2:]
        windows = map(pool_windows, shape[2:], self._windows(shape), outs)
        row, column = (max(end for _, end, _ in each) - 1 for each in windows)
        return (height, width), row * width + column

    def coordinate_map(self) -> CoordinateMap | None:
        flat = max(map(len, (self.kernel, self.stride, self.pad))) < 3
        if self.everywhere or self.sides.same or not flat:
            return None
        return shrinking(self._windows((1,) * 4))

    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        padding = reconcile(shape[2:], self._windows(shape), outputs[2:])
        return self.sides.named(padding)

    def caption(self, *inputs: Shape) -> str:
        if self.everywhere:
            return f"{self.method} of all"
        return f"{self.method} {caption(self._windows(inputs[0]))}"

    def with_padding(self, padding: Padding) -> Pooling:
        return replace(self, padding=padding)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(len(inputs[0].shape))
        return Layouts((layout,), (layout,) * self.top_count)

    def call(self, at: Site) -> str:
        if self.everywhere and self.top_count == 1:
            if self.method == "MAX":
                return f"nnx.max_pool({at.x}, {at.operands[0]}.shape[1:-1])"
            axes = tuple(range(1, len(at.input.shape) - 1))
            return f"jnp.mean({at.x}, axis={axes}, keepdims=True)"
        spatial = self._windows(at.input.shape)
        assert self.padding is not None, "reconcile_padding has not run"
        if self.method == "MAX":
            return max_pool(at.x, spatial, self.padding, masked=self.top_count == 2)
        sizes = at.input.shape[2:], at.output.shape[2:]
        pixels_only = self.method == "AVE_EXC_PAD"
        return avg_pool(at.x, spatial, self.padding, *sizes, pixels_only=pixels_only)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        (x,) = inputs
        spatial = self._windows(x.shape)
        sizes = self.infer(x.shape)[0][2:]
        if self.top_count == 1:
            return slide(x, self.method, spatial, sizes)
        return slide(x, "MAX", spatial, sizes), slide(x, "MASK", spatial, sizes)


@dataclass(frozen=True, slots=True)
class StochasticPooling(Pooling, Stochastic):
    """Sum of squares of each window / its sum; in training one of its values, drawn
    with itself as weight."""

    type = "Pooling"

    training: bool = False

    def draws(self, phase: str) -> bool:
        return phase == "TRAIN"

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 4:
            text = f"STOCHASTIC pooling needs a blob of 4 axes, not {inputs[0]}"
            raise ConversionError(text)
        return super(StochasticPooling, self).infer(*inputs)

    def build(self, at: Site) -> Call:
        if self.everywhere:
            return Call.of("StochasticPool")
        assert self.padding is not None, "reconcile_padding has not run"
        spatial = self._windows(at.input.shape)
        return Call.of(
            "StochasticPool",
            tuple(w.kernel for w in spatial),
            tuple(w.stride for w in spatial),
            overhang=overhangs(at.input.shape[2:], spatial, at.output.shape[2:]),
        )

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """Weights are not negative."""
        return np.abs(noise.standard_normal(inputs[0]))

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x}, rngs=rngs)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        window = (x, self._windows(x.shape), self.infer(x.shape)[0][2:])
        return draw(*window) if self.training else weighted(*window)


def _rounds_up(params: Params) -> bool:
    """`round_mode` of Caffe 1.0, or `ceil_mode` or `torch_pooling` of its forks."""
    rounded = params.choice("round_mode", "CEIL", "FLOOR") == "CEIL"
    if params.get("torch_pooling", False):
        params.note(f"{params.span('torch_pooling')}: torch_pooling: sizes round down")
        rounded = False
    ceil = params.optional("ceil_mode", bool)
    if ceil is None:
        return rounded
    if params.has("round_mode"):
        if ceil != rounded:
            where = params.span("ceil_mode")
            params.note(f"{where}: round_mode counts, not ceil_mode, which contradicts")
        return rounded
    return ceil
