"""What layers of features of regions have in common."""

from __future__ import annotations

from math import prod

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.layer import Array, Layer, Layouts
from caffe2flax.ir.layout import Layout, Operand, Shape


class Regional(Layer):
    """A layer with features and regions (R, 5) as bottoms and one item a region as
    top."""

    __slots__ = ()

    bottoms = 2
    in_place = False

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """Random regions of the features."""
        features, rois = inputs
        if bottom != 1:
            return None
        images = noise.integers(0, features[0], (rois[0], 1))
        scale = getattr(self, "scale", 1.0) or 1.0
        sizes = np.array(features[2:])[::-1] / scale
        corners = np.sort(noise.random((rois[0], 2, 2)) * sizes, 1)
        rows = np.concatenate([images, corners.reshape(-1, 4)], 1)
        return rows.reshape(rois)

    def layouts(self, *inputs: Operand) -> Layouts:
        _, rois = inputs
        last = Layout.channels_last(4)
        return Layouts((last, Layout.caffe(len(rois.shape))), (last,))


def check_regions(features: Shape, rois: Shape) -> None:
    """Raises ConversionError unless the shapes are (N, C, H, W) and (R, 5)."""
    if len(features) != 4:
        raise ConversionError(f"needs features of 4 axes, not {features}")
    if len(rois) > 4 or prod(rois[1:]) != 5:
        raise ConversionError(
            "regions are rows of 5 numbers, image and corners: a blob (R, 5), "
            f"not {rois}"
        )


def half_away(value: np.floating) -> int:
    """The nearest whole number; halves go away from 0."""
    return int(np.floor(abs(float(value)) + 0.5) * np.sign(value))


def between(x: Array, h: float, w: float) -> Array:
    """x (C, H, W) at a point, interpolated between its four neighbours; 0 where it is
    more than half a pixel beyond them."""
    limits = np.array(x.shape[1:]) - 1
    point = np.array([h, w])
    if (point < -0.5).any() or (point > limits + 0.5).any():
        return np.zeros(len(x))
    low, high = np.floor(point), np.floor(point) + 1
    (h0, w0), (h1, w1) = (
        np.clip(corner, 0, limits).astype(int) for corner in (low, high)
    )
    dh, dw = np.clip(point, 0, limits) - [h0, w0]
    top = x[:, h0, w0] * (1 - dw) + x[:, h0, w1] * dw
    bottom = x[:, h1, w0] * (1 - dw) + x[:, h1, w1] * dw
    between: Array = top * (1 - dh) + bottom * dh
    return between
