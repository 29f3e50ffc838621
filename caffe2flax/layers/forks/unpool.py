"""Layers that undo a pooling: by its mask, or by repeated pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import ReadsMask
from caffe2flax.ir.call import literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


class ByMask(Layer, ReadsMask):
    """Zeros, with each entry of the first bottom where the second, a pooling's mask,
    says."""

    __slots__ = ()

    bottoms = 2
    in_place = False

    @abstractmethod
    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the top."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, mask = inputs
        if len(x) != 4 or x != mask:
            raise ConversionError(
                f"{self.type} needs two blobs of one shape and 4 axes, not {inputs}"
            )
        return ((*x[:2], *self.size(*x[2:])),)

    def compare_mask(self, size: tuple[int, int], last: int, top: Shape) -> str:
        height, width = top[2:]
        if size == (height, width):
            return ""
        sizes = (
            f"{self.type} makes {height} x {width}, but the pooling that its mask "
            f"comes from read {size[0]} x {size[1]}"
        )
        if last >= height * width:
            raise ConversionError(f"{sizes}: maxima would be lost; give it that size")
        if size[1] == width:
            return sizes
        return f"{sizes}: maxima do not return to where they were, as in Caffe's fork"

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(4)
        return Layouts((layout, layout), (layout,))

    def call(self, at: Site) -> str:
        x, mask = at.args
        return f"unpool({x}, {mask}, {literal(at.output.shape[2:])})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, mask = inputs
        ((*lead, height, width),) = self.infer(x.shape, mask.shape)
        top = np.zeros((*lead, height * width))
        for n, c in np.ndindex(*lead):
            for value, place in zip(x[n, c].flat, mask[n, c].flat, strict=True):
                if place >= 0:
                    top[n, c, int(place)] = value
        return top.reshape(*lead, height, width)


@layer("Upsample", "upsample_param")
class Upsample(Layer):
    """With two bottoms, maxima at the indices of the pooling mask; with one, each pixel
    repeated."""

    __slots__ = ()

    bottoms = (1, 2)
    in_place = False

    @classmethod
    def parse(cls, params: Params) -> Layer:
        meaning = params.dialect("Upsample")
        if not meaning:
            unpools = params.bottoms == 2
            why = "it has a mask as second bottom" if unpools else "it has no mask"
            meaning = "unpool" if unpools else "nearest"
            params.decided("Upsample", meaning, why)
        if (meaning == "unpool") is not (params.bottoms == 2):
            params.error(
                None, f"as {meaning!r} it cannot have {params.bottoms} bottoms"
            )
        return Unpool.read(params) if meaning == "unpool" else Nearest.read(params)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        raise AssertionError("`parse` makes one of the meanings")

    def call(self, at: Site) -> str:
        raise AssertionError("`parse` makes one of the meanings")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("`parse` makes one of the meanings")


@dataclass(frozen=True, slots=True)
class Unpool(ByMask):
    """Maxima at the indices of the pooling mask."""

    type = "Upsample"

    height: int | None = None
    width: int | None = None
    scales: tuple[int, int] = (2, 2)
    less: tuple[bool, bool] = (False, False)
    """Whether the top has a row or column less."""

    @classmethod
    def read(cls, params: Params) -> Self:
        """The fields of SegNet's UpsampleParameter."""
        height = params.optional("upsample_h", int)
        width = params.optional("upsample_w", int)
        both = params.optional("scale", int)
        sides = [params.optional(f"scale_{side}", int) for side in "hw"]
        less = params.get("pad_out_h", False), params.get("pad_out_w", False)
        if (height is None) is not (width is None):
            params.error(None, "give both upsample_h and upsample_w")
        if None in sides and sides != [None, None]:
            params.error(None, "give both scale_h and scale_w")
        if both is not None and sides != [None, None] and height is None:
            params.error("scale", "give scale, or scale_h and scale_w, not both")
        default = 2 if both is None else both
        scales = [default if side is None else side for side in sides]
        for name, size in (("upsample_h", height), ("upsample_w", width)):
            if size is not None and size < 2:
                params.error(name, f"{name} must be 2 or more, not {size}")
        if height is None and min(scales) < 2:
            params.error(None, f"scales must be 2 or more, not {scales}")
        for scale, off in zip(scales, less, strict=True):
            if off and scale != 2 and height is None:
                params.error(None, f"pad_out needs a scale of 2, not {scale}")
        return cls(height, width, (scales[0], scales[1]), less)

    def size(self, height: int, width: int) -> tuple[int, int]:
        if self.height is not None and self.width is not None:
            return self.height, self.width
        rows = height * self.scales[0] - self.less[0]
        return rows, width * self.scales[1] - self.less[1]


@dataclass(frozen=True, slots=True)
class Nearest(Layer):
    """Each pixel `scale` times, along the last two axes or the last one."""

    type = "Upsample"
    in_place = False

    scale: int = 1
    axes: int = 2

    @classmethod
    def read(cls, params: Params) -> Self:
        """The fields of the UpsampleParameter of YOLO's and ONNX's forks."""
        scale, axes = params.get("scale", 1.0), params.get("dims_num", 4)
        if axes not in (3, 4):
            params.error("dims_num", f"dims_num is 3 or 4, not {axes}")
        if scale < 1 or not scale.is_integer():
            text = f"scale must be a whole number for which pixels repeat, not {scale}"
            params.error("scale", text)
        return cls(int(scale) if scale.is_integer() else 1, axes - 2)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if len(shape) != self.axes + 2:
            raise ConversionError(
                f"Upsample needs a blob of {self.axes + 2} axes, not {shape}"
            )
        return ((*shape[:2], *(extent * self.scale for extent in shape[2:])),)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout.plain(*range(2, 2 + self.axes))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        rank = len(at.input.shape)
        axes = tuple(at.axis(axis) % rank for axis in range(2, rank))
        times = literal((self.scale,) * self.axes)
        where = unless(axes, (1, 2))
        return f"repeat_pixels({at.x}, {times}{f', axes={where}' if where else ''})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        for axis in range(2, x.ndim):
            x = x.repeat(self.scale, axis)
        return x


@layer("MaxUnPool", "max_unpool_param")
@dataclass(frozen=True, slots=True)
class MaxUnPool(ByMask):
    """Maxima at the indices of the pooling mask."""

    height: int
    width: int

    @classmethod
    def parse(cls, params: Params) -> Self:
        size = [params.require(name, int) for name in ("dst_h", "dst_w")]
        if min(size) < 1:
            params.error(None, f"dst_h and dst_w must be positive, not {size}")
        return cls(size[0], size[1])

    def size(self, height: int, width: int) -> tuple[int, int]:
        return self.height, self.width


@layer("Unpooling", "unpooling_param")
@dataclass(frozen=True, slots=True)
class Unpooling(ByMask):
    """Maxima at the indices of the pooling mask."""

    height: int
    width: int

    @classmethod
    def parse(cls, params: Params) -> Self:
        # With a mask the windows are not used.
        windows = ("kernel_size", "stride", "pad")
        params.ignore(
            *windows, *(f"{w}_{s}" for w in ("kernel", "stride") for s in "hw")
        )
        if params.choice("unpool", "MAX", "AVE", "TILE") != "MAX":
            params.unsupported("unpool", "only MAX unpooling with a mask is converted")
        both = params.optional("unpool_size", int)
        size = [params.get(f"unpool_{side}", both or 0) for side in "hw"]
        if min(size) < 1:
            params.error(None, "give unpool_size, or unpool_h and unpool_w")
        return cls(size[0], size[1])

    def size(self, height: int, width: int) -> tuple[int, int]:
        return self.height, self.width
