"""Images in another size, interpolated or repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._resizing import Resizing
from caffe2flax.layers.forks._sampling import areas, corners, linear, points


@layer("BilinearInterpolate", "bilinear_interpolate_param")
@dataclass(frozen=True, slots=True)
class BilinearInterpolate(Resizing):
    """Bilinear, with corners aligned or pixels as areas."""

    height: int | None = None
    width: int | None = None
    scale: float | None = None
    align: bool = True

    @classmethod
    def parse(cls, params: Params) -> Self:
        height = params.optional("dst_h", int)
        width = params.optional("dst_w", int)
        scale = params.optional("scale_factor", float)
        if (height is None and width is None) is (scale is None):
            params.error(None, "give dst_h and dst_w, or scale_factor")
        if scale is not None and not 0 < scale < float("inf"):
            params.error("scale_factor", f"scale_factor must be positive, not {scale}")
        return cls(height, width, scale, params.get("align_corners", True))

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        scale = np.float32(1 if self.scale is None else self.scale)
        rows, columns = (int(np.float32(size) * scale) for size in (height, width))
        rows = rows if self.height is None else self.height
        columns = columns if self.width is None else self.width
        if self.align and 1 in (rows, columns):
            raise ConversionError(
                f"a top of {rows} x {columns}: aligned corners need two rows and "
                "columns or more (the layer divides by zero)"
            )
        return rows, columns

    def call(self, at: Site) -> str:
        options: dict[str, object] = {**self.where(at)}
        options["align_corners" if self.align else "half_pixel"] = True
        return f"resize_linear({arguments(at.x, self.size(at), **options)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        return linear(x, shape[2:], (2, 3), corners if self.align else areas)


@dataclass(frozen=True, slots=True)
class Scaled(Resizing):
    """A resize to output_height x output_width, or by scales, in either axis order."""

    height: int | None = None
    width: int | None = None
    scales: tuple[float, float] = (1.0, 1.0)
    channels_last: bool = True
    align: bool = False
    way: str = ""

    @classmethod
    def read(cls, params: Params, *ways: str) -> Self:
        """Reads the fields; `ways` are those that exclude align_corners."""
        order = params.get("data_format", "NHWC")
        if order not in ("NHWC", "NCHW"):
            params.error("data_format", f"data_format is NHWC or NCHW, not {order!r}")
        align = params.get("align_corners", False)
        chosen = [way for way in ways if params.get(way, False)]
        if len(chosen) + align > 1:
            names = ", ".join(["align_corners"] * align + chosen)
            params.error(None, f"{names} exclude one another")
        scales = params.get("scale_height", 1.0), params.get("scale_width", 1.0)
        for side, scale in zip(("height", "width"), scales, strict=True):
            if not 0 < scale < float("inf"):
                text = f"scale_{side} must be positive, not {scale}"
                params.error(f"scale_{side}", text)
        return cls(
            params.optional("output_height", int),
            params.optional("output_width", int),
            scales,
            order == "NHWC",
            align,
            "".join(chosen[:1]),
        )

    def axes(self, rank: int) -> tuple[int, int]:
        return (1, 2) if self.channels_last else (2, 3)

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = (
            floor(np.float32(size) * np.float32(scale))
            for size, scale in zip((height, width), self.scales, strict=True)
        )
        rows = rows if self.height is None else self.height
        return rows, columns if self.width is None else self.width


@layer("ResizeBilinear", "resize_bilinear_param")
@dataclass(frozen=True, slots=True)
class ResizeBilinear(Scaled):
    """Bilinear: pixels as points, as areas, or with aligned corners."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls.read(params, "half_pixel_centers", "pytorch_half_pixel")

    def call(self, at: Site) -> str:
        corners, area = unless(self.align, False), unless(bool(self.way), False)
        size = self.size(at)
        options = {"align_corners": corners, "half_pixel": area}
        if self._takes_first(at.output.shape):
            x = at.x
            for axis in self.axes(4):
                m, where = at.output.shape[axis], literal((at.axis(axis) % 4,))
                given = options if m > 1 else {}
                x = f"resize_linear({arguments(x, literal((m,)), **given, axes=where)})"
            return x
        return f"resize_linear({arguments(at.x, size, **options, **self.where(at))})"

    def _takes_first(self, shape: Shape) -> bool:
        """Whether a top of one row or column is the first of the bottom, not the
        middle."""
        sizes = [shape[axis] for axis in self.axes(4)]
        return self.way == "pytorch_half_pixel" and 1 in sizes

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        way = corners if self.align else areas if self.way else points
        for axis in self.axes(4):
            first = self._takes_first(shape) and shape[axis] == 1
            x = linear(x, (shape[axis],), (axis,), points if first else way)
        return x


@layer("ResizeNearestNeighbor", "resize_nearest_neighbor_param")
@dataclass(frozen=True, slots=True)
class ResizeNearestNeighbor(Scaled):
    """The nearest pixel."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls.read(params, "half_pixel_centers", "half_pixel_onnx")

    def call(self, at: Site) -> str:
        return "resize_nearest({})".format(
            arguments(
                at.x,
                self.size(at),
                align_corners=unless(self.align, False),
                shift=unless(0.5 if self.way else 0, 0),
                offset=unless(0.5 if self.way == "half_pixel_onnx" else 0, 0),
                **self.where(at),
            )
        )

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        for axis in self.axes(4):
            n, m = x.shape[axis], shape[axis]
            i = np.arange(m)
            if self.align and m > 1:
                # Half a pixel rounds up: 2 * i * (n - 1) / (m - 1) in whole numbers.
                index = (2 * i * (n - 1) + m - 1) // (2 * (m - 1))
            elif self.way == "half_pixel_onnx":
                index = ((2 * i + 1) * n - m) // (2 * m)
            elif self.way:
                index = (2 * i + 1) * n // (2 * m)
            else:
                index = i * n // m
            x = x.take(np.clip(index, 0, n - 1), axis)
        return x


@layer("UpsampleDarknet", "upsample_darknet_param")
@dataclass(frozen=True, slots=True)
class UpsampleDarknet(Resizing):
    """Each pixel repeated `stride` times."""

    stride: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        stride = params.get("stride", 1)
        if stride < 1:
            params.error("stride", f"stride must be positive, not {stride}")
        return cls(stride)

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        return height * self.stride, width * self.stride

    def call(self, at: Site) -> str:
        times = literal((self.stride,) * 2)
        return f"repeat_pixels({arguments(at.x, times, **self.where(at))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return inputs[0].repeat(self.stride, 2).repeat(self.stride, 3)
