"""FlowNet2's layers that prepare images, and that shrink flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.abilities import Doubtful
from caffe2flax.ir.call import RNGS, Call, literal
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import Frames, images

GENERATORS = (
    "mirror",
    "translate",
    "rotate",
    "zoom",
    "squeeze",
    "translate_x",
    "translate_y",
    "gamma",
    "brightness",
    "contrast",
    "color",
    "lmult_pow",
    "lmult_mult",
    "lmult_add",
    "sat_pow",
    "sat_mult",
    "sat_add",
    "col_pow",
    "col_mult",
    "col_add",
    "ladd_pow",
    "ladd_mult",
    "ladd_add",
    "col_rotate",
    "fog_amount",
    "fog_size",
    "motion_blur_angle",
    "motion_blur_size",
    "shadow_angle",
    "shadow_distance",
    "shadow_strength",
    "noise",
)
"""The fields that change images at random."""

EDGE = 1.05
"""How far before its end an image is read at most; the fork holds positions there."""


@layer("DataAugmentation", "augmentation_param")
@dataclass(frozen=True, slots=True)
class DataAugmentation(Frames, Doubtful):
    """At TEST the middle of x in the size of a crop, less a mean: of weights files or
    of the net, of each pixel or channel."""

    bottoms = (1, 2)

    crop: tuple[int, int] | None
    """Height and width of the crop, if any."""
    mean: tuple[float, ...] = ()
    """Of each channel."""
    count: int = 0
    """How many images the mean in weights files is of, at least; 0: there is none."""
    per_pixel: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("max_multiplier", "write_augmented", "write_mean", "mode")
        params.ignore("bottomwidth", "bottomheight", "num", "chromatic_eigvec")
        drawn = [name for name in GENERATORS if params.has(name)]
        always = params.get("augment_during_test", False)
        if params.bottoms > 1 or params.phase == "TRAIN" or (always and drawn):
            text = "random augmentation: remove the layer or its generators"
            params.unsupported(None, text)
        size = params.get("crop_height", 0), params.get("crop_width", 0)
        if min(size) < 0 or (min(size) == 0) != (max(size) == 0):
            params.error(None, "give both crop_height and crop_width")
        count = params.get("recompute_mean", 0)
        mean = params.all("mean", float)
        per_pixel = params.get("mean_per_pixel", True)
        if count:
            mean = ()
        elif mean and per_pixel:
            text = "a mean for each pixel in the net is not converted"
            params.unsupported("mean", text)
        return cls(size if all(size) else None, mean, count, per_pixel)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, c, *size = images(self.type, inputs[0])
        if self.mean and len(self.mean) != c:
            raise ConversionError(f"{len(self.mean)} values of mean for {c} channels")
        if self.crop and min(size) < 2:
            raise ConversionError(f"a crop is read between two pixels, not of {size}")
        return ((n, c, *(self.crop or size)),)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        (shape,) = self.infer(inputs[0])
        means = (1, *shape[1:]), (1, shape[1], 1, 1)
        shapes = ((1, 1, 1, 1), *(means if self.count else ()))
        return tuple(Blob(shape, Filler()) for shape in shapes)

    def build(self, at: Site) -> Call | None:
        if not self.count:
            return None
        _, channels, *size = at.output.shape
        if self.per_pixel:
            return Call.of("Bias", (*size, channels), (0,), rngs=RNGS)
        return Call.of("Bias", (channels,), (0, 1, 2), rngs=RNGS)

    def call(self, at: Site) -> str:
        x = at.x
        if self.crop:
            x = f"crop_between({x}, {literal(self.crop)})"
        if self.count:
            return f"{at.module}({x})"
        if not self.mean:
            return x
        return f"shift_channels({x}, {literal(tuple(-m for m in self.mean))})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        if not self.count:
            return {}
        mean = np.moveaxis(-self._learned(blobs)[0], 0, -1)
        return {"bias": mean if self.per_pixel else mean.ravel()}

    def _learned(self, blobs: Sequence[Array]) -> Array:
        """The mean in the weights files, (1, C, H, W) or (1, C, 1, 1)."""
        return blobs[1 if self.per_pixel else 2]

    def doubt(self, blobs: Sequence[Array]) -> str:
        if self.count and blobs[0].item() < self.count:
            raise unsupported(
                f"the mean in the weights file is of {blobs[0].item():g} images, less "
                f"than recompute_mean {self.count}: Caffe would take that of the batch"
            )
        return ""

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        if self.crop:
            for axis, size in zip((2, 3), self.crop, strict=True):
                x = np.moveaxis(_middle(np.moveaxis(x, axis, 0), size), 0, axis)
        if self.count:
            x = x - self._learned(blobs)
        elif self.mean:
            x = x - np.array(self.mean).reshape(1, -1, 1, 1)
        return x


def _middle(x: Array, size: int) -> Array:
    place = np.arange(size) + (len(x) - size) / 2
    place = np.clip(place, 0, np.float64(np.float32(len(x)) - np.float32(EDGE)))
    low = place.astype(int)
    share = (place - low).reshape(-1, *(1,) * (x.ndim - 1))
    top: Array = (1 - share) * x[low] + share * x[low + 1]
    return top


@layer("Downsample", "downsample_param")
@dataclass(frozen=True, slots=True)
class Downsample(Frames):
    """x in a smaller size: means weighted by tents, corners aligned, that leave NaN
    out."""

    bottoms = (1, 2)

    size: tuple[int, int] | None
    """Height and width of the top; None for those of the second bottom."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        size = params.get("top_height", 0), params.get("top_width", 0)
        if params.bottoms == 1 and min(size) < 1:
            params.error(None, f"top_height and top_width must be positive, not {size}")
        return cls(size if params.bottoms == 1 else None)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shapes = [images(self.type, shape) for shape in inputs]
        n, c, *old = shapes[0]
        size = list(self.size or shapes[1][2:])
        if size != old and min(*old, *size) < 2:
            raise ConversionError(f"corners of {old} do not fit those of {size}")
        if any(b > a for a, b in zip(old, size, strict=True)):
            raise unsupported(f"a top of {size} that is larger than {old}")
        return ((n, c, *size),)

    def call(self, at: Site) -> str:
        size = at.output.shape[2:]
        if size == at.input.shape[2:]:
            return at.x
        return f"downsample({at.x}, {literal(size)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x = inputs[0]
        (shape,) = self.infer(*(x.shape for x in inputs))
        if shape == x.shape:
            return x
        rows, columns = map(_tents, x.shape[2:], shape[2:])
        known = ~np.isnan(x)

        def spread(values: Array) -> Array:
            top: Array = rows @ values @ columns.T
            return top

        sums, weight = spread(np.where(known, x, 0)), spread(known.astype(float))
        total = spread(np.ones(x.shape))
        lost = 2 * weight < total
        top: Array = np.where(lost, np.nan, sums / np.where(lost, 1, weight))
        return top


def _tents(old: int, new: int) -> Array:
    """The weights of the entries of an axis for each of the top."""
    step = (old - 1) / (new - 1)
    far = np.abs(np.arange(new)[:, None] * step - np.arange(old))
    weights: Array = np.maximum(1 - far / step, 0)
    return weights
