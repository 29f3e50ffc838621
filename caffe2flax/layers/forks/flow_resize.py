"""FlowNet's layers that resize blobs or change their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import Frames, images
from caffe2flax.layers.forks._sampling import corners, linear

KERNELS = {"LINEAR": 2, "CUBIC": 4}
"""The width of the fork's kernel, by the type of interpolation."""


@layer("Resample", "resample_param")
@dataclass(frozen=True, slots=True)
class Resample(Frames):
    """The blob in another size: the nearest pixel, or linear or cubic interpolation.

    The fork computes positions of rows by the ratio of widths and of columns by that of
    heights, and so does this layer.
    """

    bottoms = (1, 2)

    size: tuple[int, int] | None
    way: str = "LINEAR"
    smooth: bool = True

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("factor")
        size = params.get("height", 0), params.get("width", 0)
        if params.bottoms == 1 and min(size) < 1:
            params.error(None, f"height and width must be positive, not {size}")
        words = ("", "NEAREST", "LINEAR", "CUBIC", "AREA")
        way = params.choice("type", *words, default="LINEAR")
        if way == "AREA":
            params.error("type", "the fork aborts on type AREA")
            way = "LINEAR"
        given = size if params.bottoms == 1 else None
        return cls(given, way, params.get("antialias", True))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shapes = [images(self.type, shape) for shape in inputs]
        n, c, *old = shapes[0]
        size = self.size or shapes[1][2:]
        if self.way == "NEAREST":
            ratios = [a / b for a, b in zip(old, size, strict=True)]
            for extent, places in zip(old, self._places(old, size), strict=True):
                if not 0 <= places.min() <= places.max() < extent:
                    raise unsupported(
                        f"with ratios {ratios} that differ the fork reads pixels "
                        "beyond the image"
                    )
        return ((n, c, *size),)

    def _places(self, old: Sequence[int], new: Sequence[int]) -> list[Array]:
        """The nearest pixel of each row and column, halves away from 0."""
        ratios = [np.float32(a) / np.float32(b) for a, b in zip(old, new, strict=True)]
        places = []
        for size, own, other in zip(new, ratios, ratios[::-1], strict=True):
            place = np.arange(size, dtype=np.float32) * own + other / 2 - 0.5
            places.append(np.floor(np.abs(place) + 0.5) * np.sign(place))
        return places

    def call(self, at: Site) -> str:
        size = literal(at.output.shape[2:])
        if self.way == "NEAREST":
            return f"resample_nearest({arguments(at.x, size)})"
        cubic = unless(self.way == "CUBIC", False)
        smooth = unless(self.smooth, True)
        return f"resample({arguments(at.x, size, cubic=cubic, antialias=smooth)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x = inputs[0]
        (shape,) = self.infer(*(given.shape for given in inputs))
        old, new = x.shape[2:], shape[2:]
        if self.way == "NEAREST":
            rows, columns = (p.astype(int) for p in self._places(old, new))
            return x[:, :, rows][..., columns]
        ratios = [a / b for a, b in zip(old, new, strict=True)]
        smooth = self.smooth and max(ratios) > 1
        for axis, (own, other) in enumerate(zip(ratios, ratios[::-1], strict=True), 2):
            weights = np.zeros((shape[axis], x.shape[axis]))
            for i in range(shape[axis]):
                place = i * own + other / 2 - 0.5
                middle = np.floor(abs(place) + 0.5) * np.sign(place)
                scale = 1 / own if smooth else 1.0
                reach = 2 if own < 1 else np.ceil(KERNELS[self.way] / scale)
                for j in range(x.shape[axis]):
                    if abs(j - middle) <= reach:
                        weights[i, j] = self._weight(scale * (place - j))
            total = weights.sum(1, keepdims=True)
            weights /= np.where(total == 0, 1, total)
            x = np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis)
        return x

    def _weight(self, distance: float) -> float:
        d = abs(distance)
        if self.way == "LINEAR":
            return max(1 - d, 0)
        if d <= 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0


@layer("Accum", "accum_param")
@dataclass(frozen=True, slots=True)
class Accum(Frames):
    """Blobs resized to one size, with corners aligned, and concatenated along the
    channels."""

    bottoms = (1, None)

    size: tuple[int, int] = (0, 0)
    divisor: int = 0
    reference_last: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        size = params.get("top_height", 0), params.get("top_width", 0)
        divisor = params.get("size_divisible_by", 0)
        if divisor < 1 and params.has("size_divisible_by"):
            params.error("size_divisible_by", "size_divisible_by must be positive")
        has_reference = params.get("have_reference", False)
        if has_reference and params.bottoms < 2:
            params.error("have_reference", "the reference is a bottom of its own")
        return cls(size, divisor, has_reference)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shapes = [images(self.type, shape) for shape in inputs]
        joined = shapes[:-1] if self.reference_last else shapes
        if len({shape[0] for shape in joined}) > 1:
            raise ConversionError(f"not as many images each: {joined}")
        largest = [max(shape[axis] for shape in shapes) for axis in (2, 3)]
        if self.reference_last:
            size = list(shapes[-1][2:])
        else:
            wanted = list(self.size)
            if self.divisor:
                wanted = [-(-n // self.divisor) * self.divisor for n in largest]
            more = all(w > n for w, n in zip(wanted, largest, strict=True))
            size = wanted if more else largest
        if min(size) < 2:
            raise ConversionError(f"aligned corners need two pixels, not {size}")
        return ((joined[0][0], sum(s[1] for s in joined), *size),)

    def call(self, at: Site) -> str:
        size = at.output.shape[2:]
        count = len(at.args) - self.reference_last
        parts = []
        for x, operand in zip(at.args[:count], at.inputs[:count], strict=True):
            if operand.shape[2:] == size:
                parts.append(x)
                continue
            parts.append(f"resize_linear({x}, {literal(size)}, align_corners=True)")
        if len(parts) == 1:
            return parts[0]
        return f"jnp.concatenate([{', '.join(parts)}], axis=-1)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (shape,) = self.infer(*(x.shape for x in inputs))
        joined = inputs[: len(inputs) - self.reference_last]
        resized = [linear(x, shape[2:], (2, 3), corners) for x in joined]
        return np.concatenate(resized, 1)


@layer("Mean", "mean_param")
@dataclass(frozen=True, slots=True)
class Mean(Frames):
    """output_scale * (input_scale * x + mean_scale * value), or minus; there is a value
    for each channel, or the values are repeated."""

    bottoms = (1, None)
    tops = (1, None)
    in_place = True

    shift: tuple[float, ...]
    scale: float
    count: int

    @classmethod
    def parse(cls, params: Params) -> Self:
        words = ("", "ADD", "", "", "SUBTRACT")
        if not params.has("operation"):
            params.error(None, "mean_param needs operation")
        sign = -1 if params.choice("operation", *words, default="ADD") != "ADD" else 1
        values = params.all("value", float)
        if params.has("file"):
            params.unsupported("file", "the mean is in a file, which is not opened")
        elif not values:
            params.error(None, "mean_param needs a value")
        if params.tops != params.bottoms:
            params.error(None, f"{params.tops} tops for {params.bottoms} bottoms")
        scales = [params.get(f"{x}_scale", 1.0) for x in ("mean", "input", "output")]
        mean, inner, outer = scales
        shift = tuple(outer * mean * sign * value for value in values or (0.0,))
        return cls(shift, inner * outer, params.bottoms)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        for shape in inputs:
            if images(self.type, shape)[1] % len(self.shift):
                raise ConversionError(
                    f"{shape[1]} channels are no multiple of {len(self.shift)} values"
                )
        return inputs

    def call(self, at: Site) -> str:
        parts = []
        for x, operand in zip(at.args, at.inputs, strict=True):
            shift = self.shift * (operand.shape[1] // len(self.shift))
            given = shift[:1] if len(set(shift)) == 1 else shift
            scale = unless(self.scale, 1.0)
            parts.append(f"shift_channels({arguments(x, literal(given), scale=scale)})")
        return ", ".join(parts)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        tops = []
        for x in inputs:
            shift = np.resize(np.array(self.shift), x.shape[1])
            tops.append(self.scale * x + shift[:, None, None])
        return tuple(tops) if len(tops) > 1 else tops[0]
