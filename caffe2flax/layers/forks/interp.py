"""Interp: images resized between their corners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments
from caffe2flax.ir.layer import Array, Layouts, Site
from caffe2flax.ir.layout import Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer, variant
from caffe2flax.layers.forks._resizing import Resizing
from caffe2flax.layers.forks._sampling import corners, linear


@layer("Interp", "interp_param")
@dataclass(frozen=True, slots=True)
class Interp(Resizing):
    """Bilinear, with the corner pixels of bottom and top aligned; negative pads crop
    the bottom."""

    height: int = 0
    width: int = 0
    zoom: int = 0
    shrink: int = 0
    begin: int = 0
    end: int = 0
    full_zoom: int = 0
    """Synopsys' fork: the size of the bottom times this."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        zoom = params.optional("zoom_factor", int)
        shrink = params.optional("shrink_factor", int)
        height = params.optional("height", int)
        width = params.optional("width", int)
        begin, end = params.get("pad_beg", 0), params.get("pad_end", 0)
        for name, pad in (("pad_beg", begin), ("pad_end", end)):
            if pad > 0:
                params.error(name, f"{name} can crop only: 0 or less, not {pad}")
        full = params.optional("full_zoom_factor", int)
        for name, factor in (
            ("zoom_factor", zoom),
            ("shrink_factor", shrink),
            ("full_zoom_factor", full),
        ):
            if factor is not None and factor < 1:
                params.error(name, f"{name} must be positive, not {factor}")
        if (zoom is None) is not (shrink is None):
            height = width = None
        elif height is not None and width is not None:
            zoom = shrink = None
        elif zoom is None:
            if full is not None:
                return cls(begin=begin, end=end, full_zoom=full)
            params.error(None, "give height and width, zoom_factor or shrink_factor")
        return cls(height or 0, width or 0, zoom or 0, shrink or 0, begin, end)

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        cropped = [size + self.begin + self.end for size in (height, width)]
        if min(cropped) < 1:
            raise ConversionError(f"pad_beg and pad_end leave nothing of {cropped}")
        if self.full_zoom:
            return cropped[0] * self.full_zoom, cropped[1] * self.full_zoom
        if not self.zoom and not self.shrink:
            return self.height, self.width
        smaller = [(size - 1) // max(self.shrink, 1) + 1 for size in cropped]
        larger = [size + (size - 1) * (max(self.zoom, 1) - 1) for size in smaller]
        return larger[0], larger[1]

    def call(self, at: Site) -> str:
        where = self.where(at)
        x = at.x
        if self.begin or self.end:
            axes = self.axes(4)
            ends = tuple(at.input.shape[axis] + self.end for axis in axes)
            x = f"crop_pixels({arguments(x, (-self.begin,) * 2, ends, **where)})"
        size = self.size(at)
        return f"resize_linear({arguments(x, size, align_corners=True, **where)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        rows, columns = (slice(-self.begin, n + self.end) for n in x.shape[2:])
        return linear(x[:, :, rows, columns], shape[2:], (2, 3), corners)


@variant("Interp", lambda params: params.bottoms == 2)
class InterpLike(Resizing):
    """Bilinear to height and width of the second bottom, with the corner pixels
    aligned."""

    __slots__ = ()

    bottoms = 2

    @classmethod
    def parse(cls, params: Params) -> Self:
        # That of the second bottom takes its place, as `use_blob_size` says.
        params.ignore("use_blob_size", "height", "width")
        for name in ("pad_beg", "pad_end"):
            if params.get(name, 0):
                params.error(name, f"{name} beside a second bottom is not known")
        return cls()

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        raise AssertionError("the second bottom has the size")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, like = inputs
        if len(x) != 4 or len(like) != 4:
            raise ConversionError(f"Interp needs blobs of 4 axes, not {x} and {like}")
        return ((*x[:2], *like[2:]),)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout.plain(2, 3)
        return Layouts((layout, inputs[1].layout), (layout,))

    def call(self, at: Site) -> str:
        where = self.where(at)
        size = self.size(at)
        return f"resize_linear({arguments(at.x, size, align_corners=True, **where)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, like = inputs
        return linear(x, like.shape[2:], (2, 3), corners)
