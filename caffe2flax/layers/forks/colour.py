"""ColorConv of colorization nets: colours of images in another space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import Frames

SPACES = ("BGR", "", "", "Lab")
"""The spaces by their numbers, as far as published nets give these."""

XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.95074, 1.0, 1.08883)


@layer("ColorConv", "color_conv_param")
@dataclass(frozen=True, slots=True)
class ColorConv(Frames):
    """CIE Lab of sRGB images (N, 3, H, W) of 0 to 255.

    v = invS(rgb / 255); XYZ = M v / white; f = F(XYZ); L = 116 f_y - 16,
    a = 500 (f_x - f_y), b = 200 (f_y - f_z).
    """

    bgr: bool

    @classmethod
    def parse(cls, params: Params) -> Self:
        rgb = {"RGB": "RGB"}  # its number is in no published net
        given = params.choice("input", *SPACES, older=rgb)
        wanted = params.choice("output", *SPACES, older=rgb)
        if given == "Lab" or wanted != "Lab":
            text = f"{given} to {wanted} is not known: BGR or RGB to Lab is"
            params.error("output", text)
        return cls(given == "BGR")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if len(shape) != 4 or shape[1] != 3:
            raise ConversionError(f"takes images (N, 3, H, W), not {shape}")
        return inputs

    def call(self, at: Site) -> str:
        return f"lab_colours({arguments(at.x, bgr=unless(self.bgr, False))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        v = (x[:, ::-1] if self.bgr else x) / 255
        with np.errstate(invalid="ignore"):
            v = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
        xyz = np.einsum("ij,njhw->nihw", np.array(XYZ) / np.array(WHITE)[:, None], v)
        f = np.where(xyz > 0.008867, np.cbrt(xyz), (903.3 * xyz + 16) / 116)
        fx, fy, fz = f[:, 0], f[:, 1], f[:, 2]
        return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)
