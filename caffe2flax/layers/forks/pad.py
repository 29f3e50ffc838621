"""Borders around a blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._python import options, python_layer, whole

Ends = tuple[tuple[int, int], ...]

SIDES = ("pad_t", "pad_b", "pad_l", "pad_r")
MODES = ("constant", "edge", "reflect", "symmetric")


@layer("Pad", "pad_param")
@dataclass(frozen=True, slots=True)
class Pad(Layer):
    """A border of `value`, of the outermost entries, or mirrored; below 0: a crop."""

    in_place = False

    ends: Ends
    """Entries before and after, for each axis, or for the last two axes only."""
    mode: str = "constant"
    value: float = 0.0
    images: bool = False
    """Whether the pads are those of the last two of four axes."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.has("paddings") or params.has("constant_values"):
            return cls(paddings(params), value=params.get("constant_values", 0.0))
        kinds = params.choice("pad_type", "CONSTANT", "REPLICATE", "REFLECT")
        up, down, left, right = (params.get(f"pad_{side}", 0) for side in "udlr")
        pads = (up, down, left, right)
        if min(pads) < 0 and max(pads) >= 0:
            params.error(None, f"pads must be all negative, or none of them: {pads}")
        mode = {"CONSTANT": "constant", "REPLICATE": "edge", "REFLECT": "reflect"}
        value = params.get("pad_value", 0.0)
        if kinds != "CONSTANT":
            value = 0.0
        return cls(((up, down), (left, right)), mode[kinds], value, True)

    def _all(self, shape: Shape) -> Ends:
        """The pads of every axis. Raises ConversionError where they do not fit."""
        if self.images and len(shape) != 4:
            raise ConversionError(f"Pad needs a blob of 4 axes, not {shape}")
        ends = ((0, 0), (0, 0), *self.ends) if self.images else self.ends
        if len(ends) != len(shape):
            raise ConversionError(
                f"paddings for {len(ends)} axes do not fit a blob of {shape}"
            )
        for extent, pair in zip(shape, ends, strict=True):
            most = {"reflect": extent - 1, "symmetric": extent}.get(self.mode)
            if most is not None and max(pair) > most:
                raise ConversionError(f"{extent} entries cannot be mirrored for {pair}")
            if extent + sum(pair) < 1:
                raise ConversionError(f"pads {pair} leave nothing of {extent}")
        return ends

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        ends = self._all(shape)
        return (tuple(n + sum(e) for n, e in zip(shape, ends, strict=True)),)

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        padded = [i for i, pair in enumerate(self._all(x.shape)) if any(pair)]
        layout = x.layout.plain(*padded) if padded else x.layout
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        ends = self._all(at.input.shape)
        emitted = tuple(ends[axis] for axis in at.input.layout.axes)
        if any(low < 0 or high < 0 for low, high in ends):
            slices = ", ".join(_kept(*pair) for pair in emitted)
            return f"{at.operands[0]}[{slices}]"
        value = unless(self.value, 0.0) if self.mode == "constant" else None
        mode = unless(self.mode, "constant")
        given = arguments(at.x, literal(emitted), mode=mode, constant_values=value)
        return f"jnp.pad({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        ends = self._all(x.shape)
        if any(low < 0 for low, _ in ends):
            kept = (slice(-a, n + b) for (a, b), n in zip(ends, x.shape, strict=True))
            return x[tuple(kept)]
        for axis, (low, high) in enumerate(ends):
            n = x.shape[axis]
            place = np.arange(-low, n + high)
            if self.mode == "constant":
                inside = (place >= 0) & (place < n)
                shape = [1] * x.ndim
                shape[axis] = len(place)
                entries = x.take(np.clip(place, 0, n - 1), axis)
                x = np.where(inside.reshape(shape), entries, self.value)
                continue
            if self.mode == "edge":
                place = np.clip(place, 0, n - 1)
            elif self.mode == "reflect":
                place = n - 1 - np.abs(n - 1 - np.abs(place))
            else:
                place = np.where(place < 0, -1 - place, place)
                place = np.where(place >= n, 2 * n - 1 - place, place)
            x = x.take(place, axis)
        return x


@layer("MirrorPad", "mirror_pad_param")
@dataclass(frozen=True, slots=True)
class MirrorPad(Pad):
    """A border of a constant, or mirrored with (SYMMETRIC) or without (REFLECT) the
    outermost entries."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        mode = params.get("mode", "CONSTANT")
        if mode not in ("CONSTANT", "REFLECT", "SYMMETRIC"):
            params.error("mode", f"mode {mode!r} is no way to mirror")
        value = params.get("constant_values", 0.0)
        constant = mode == "CONSTANT"
        return cls(paddings(params), mode.lower(), value if constant else 0.0)


@python_layer("pad", "PadTensor")
def _pad_tensor(params: Params) -> Layer:
    """numpy.pad of the last two axes, in Synopsys' fork."""
    given = options(params, *SIDES, "pad_mode")
    top, bottom, left, right = (whole(params, given, name) for name in SIDES)
    mode = " ".join(given.get("pad_mode", ()))
    if mode not in MODES:
        text = f"pad_mode in param_str is one of {', '.join(MODES)}, not {mode!r}"
        params.unsupported("param_str", text)
    return Pad(((top, bottom), (left, right)), mode, images=True)


def paddings(params: Params) -> Ends:
    """`paddings`: two numbers for each axis."""
    flat = params.all("paddings", int)
    if len(flat) % 2 or min(flat, default=0) < 0:
        params.error("paddings", "paddings are two numbers, 0 or more, for each axis")
    return tuple(zip(flat[::2], flat[1::2], strict=False))


def _kept(low: int, high: int) -> str:
    return f"{-low or ''}:{high or ''}"
