"""Layers that move pixels into channels, channels into pixels, or reorder channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer, variant
from caffe2flax.layers._forks import images, multiple, positive
from caffe2flax.layers._python import python_layer


@layer("ShuffleChannel", "shuffle_channel_param")
@dataclass(frozen=True, slots=True)
class ShuffleChannel(Layer):
    """Channel j * group + i of the top is channel i * (C / group) + j of the bottom."""

    in_place = False

    group: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(positive(params, "group", 1))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) < 2:
            raise ConversionError(f"a blob of shape {inputs[0]} has no channels")
        multiple("channels", inputs[0][1], self.group)
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout.plain(1)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        axis = unless(at.axis(1), -1)
        return f"shuffle_channels({arguments(at.x, self.group, axis=axis)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        channels = np.arange(x.shape[1]).reshape(self.group, -1).T.ravel()
        return x[:, channels]


@layer("Reorg", "reorg_param")
@dataclass(frozen=True, slots=True)
class Reorg(Layer):
    """YOLO's passthrough: blocks of pixels as channels, or the reverse."""

    in_place = False

    stride: int = 1
    reverse: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(positive(params, "stride"), params.get("reverse", False))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, c, h, w = images("Reorg", inputs[0])
        s = self.stride
        if self.reverse:
            return ((n, multiple("channels", c, s * s), h * s, w * s),)
        # With fewer channels the fork reads past its bottom.
        multiple("channels", c, s * s)
        return ((n, c * s * s, multiple("rows", h, s), multiple("columns", w, s)),)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(4) if self.reverse else Layout.caffe(4)
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        function = "depth_to_space" if self.reverse else "reorganize"
        return f"{function}({at.x}, {self.stride})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        ((n, *size),) = self.infer(x.shape)
        s = self.stride
        groups = x.shape[1] // (s * s)
        k, j, i = np.indices(x.shape[1:]).reshape(3, -1)
        row, column = j * s + k // groups // s, i * s + k // groups % s
        far = (k % groups * x.shape[2] * s + row) * x.shape[3] * s + column
        flat = x.reshape(n, -1)
        top = np.empty_like(flat)
        if self.reverse:
            top[:, far] = flat
        else:
            top = flat[:, far]
        return top.reshape(n, *size)


@python_layer("yolov2", "darknet_reorg")
def _darknet_reorg(params: Params) -> Layer:
    """The same in Synopsys' fork, which has it in Python."""
    params.ignore("param_str")
    return Reorg(2)


@dataclass(frozen=True, slots=True)
class Blocks(Layer):
    """Blocks of pixels to channels or back.

    `order` names the axes of the blob, or those within a channel.
    """

    in_place = False

    block: int = 1
    order: str = "NHWC"

    @classmethod
    def read(cls, params: Params, *orders: str) -> Self:
        order = params.get("data_format", "NHWC")
        if order not in orders:
            text = f"data_format is one of {', '.join(orders)}, not {order!r}"
            params.error("data_format", text)
        return cls(positive(params, "block_size"), order)

    def layouts(self, *inputs: Operand) -> Layouts:
        last = self.order != "NHWC"
        layout = Layout.channels_last(4) if last else Layout.caffe(4)
        return Layouts((layout,), (layout,))

    def nhwc(self, shape: Shape) -> tuple[int, int, int, int]:
        n, a, b, c = images(self.type, shape)
        return (n, a, b, c) if self.order == "NHWC" else (n, b, c, a)

    def shaped(self, n: int, h: int, w: int, c: int) -> tuple[Shape, ...]:
        return ((n, h, w, c) if self.order == "NHWC" else (n, c, h, w),)


@layer("DepthToSpace", "depth_to_space_param")
@dataclass(frozen=True, slots=True)
class DepthToSpace(Blocks):
    """Channels as the pixels of blocks."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls.read(params, "NHWC", "NCHW", "DCR", "CRD")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, h, w, c = self.nhwc(inputs[0])
        b = self.block
        return self.shaped(n, h * b, w * b, multiple("channels", c, b * b))

    def call(self, at: Site) -> str:
        first = unless(self.order == "CRD", False)
        return f"depth_to_space({arguments(at.x, self.block, channel_first=first)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        b = self.block
        if self.order == "NHWC":
            x = x.transpose(0, 3, 1, 2)
        n, c, h, w = x.shape
        top = np.empty((n, c // (b * b), h * b, w * b))
        for k in range(c):
            if self.order == "CRD":
                channel, row, column = k // (b * b), k // b % b, k % b
            else:
                each = c // (b * b)
                channel, row, column = k % each, k // each // b, k // each % b
            top[:, channel, row::b, column::b] = x[:, k]
        return top.transpose(0, 2, 3, 1) if self.order == "NHWC" else top


@layer("SpaceToDepth", "space_to_depth_param")
@dataclass(frozen=True, slots=True)
class SpaceToDepth(Blocks):
    """The pixels of blocks as channels."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls.read(params, "NHWC", "NCHW")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        n, h, w, c = self.nhwc(inputs[0])
        b = self.block
        return self.shaped(
            n, multiple("rows", h, b), multiple("columns", w, b), c * b * b
        )

    def call(self, at: Site) -> str:
        return f"space_to_depth({at.x}, {self.block})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        b = self.block
        if self.order == "NHWC":
            x = x.transpose(0, 3, 1, 2)
        pieces = [x[:, :, row::b, column::b] for row in range(b) for column in range(b)]
        top = np.concatenate(pieces, 1)
        return top.transpose(0, 2, 3, 1) if self.order == "NHWC" else top


@layer("PixelShuffle", "pixelshuffle_param")
@dataclass(frozen=True, slots=True)
class PixelShuffle(DepthToSpace):
    """Channels as the pixels of blocks: channel, row, column."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(positive(params, "upscale_factor"), "CRD")


@variant("Reshape", lambda params: params.get("pixelshuffler", 1) != 1)
@dataclass(frozen=True, slots=True)
class ReshapeShuffle(PixelShuffle):
    """Channels as the pixels of blocks of pixelshuffler x pixelshuffler, in Synopsys'
    fork."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("shape", "axis", "num_axes")
        return cls(positive(params, "pixelshuffler"), "CRD")


@layer("GSTiling", "gs_tiling_param")
class GSTiling(Layer):
    """The pixels of blocks as channels, or the reverse."""

    __slots__ = ()

    @classmethod
    def parse(cls, params: Params) -> Layer:
        stride = positive(params, "stride")
        reverse = params.get("reverse", False)
        return (DepthToSpace if reverse else SpaceToDepth)(stride, "NCHW")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        raise AssertionError("`parse` makes a layer of another class")

    def call(self, at: Site) -> str:
        raise AssertionError("`parse` makes a layer of another class")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("`parse` makes a layer of another class")
