"""Layers of pose estimation against loops written out."""

from __future__ import annotations

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single


def cubic_kernel(t: float) -> float:
    """Catmull and Rom's, by distance."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def enlarged(x: Array, rows: int, columns: int) -> Array:
    """x (C, H, W) pixel by pixel; places above the first extend its polynomial."""
    c, h, w = x.shape
    top = np.zeros((c, rows, columns))
    for i in range(rows):
        for j in range(columns):
            places = (i + 0.5) * h / rows - 0.5, (j + 0.5) * w / columns - 0.5
            (y, z), (ty, tz) = (
                [max(int(p + 1e-5), 0) for p in places],
                [p - max(int(p + 1e-5), 0) for p in places],
            )
            for a in range(-1, 3):
                for b in range(-1, 3):
                    fy, fz = polynomial(a, ty), polynomial(b, tz)
                    at = min(max(y + a, 0), h - 1), min(max(z + b, 0), w - 1)
                    top[:, i, j] += fy * fz * x[:, *at]
    return top


def polynomial(step: int, t: float) -> float:
    """The weight of the entry `step` away, of a place t behind the middle one."""
    if 0 <= t < 1:
        return cubic_kernel(t - step)
    return {
        -1: -0.5 * t**3 + t**2 - 0.5 * t,
        0: 1.5 * t**3 - 2.5 * t**2 + 1,
        1: -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        2: 0.5 * t**3 - 0.5 * t**2,
    }[step]


SIZES = {
    "factor: 8": (40, 48),
    "factor: 2.5": (12, 15),
    "target_spatial_width: 9 target_spatial_height: 11": (11, 9),
    "target_spatial_width: 3 target_spatial_height: 2": (2, 3),
}


@pytest.mark.parametrize("text", SIZES)
def test_im_resize(text: str) -> None:
    x = normal(1, 3, 5, 6)
    net = single("ImResize", f"imresize_param {{ {text} }}", x.shape)
    check(net, {"x0": x}, {"out": enlarged(x[0], *SIZES[text])[None]})


def test_im_resize_of_scales() -> None:
    """The second image loses a quarter of its half on each side."""
    x = normal(2, 2, 9, 8)
    text = "imresize_param { factor: 2 start_scale: 1 scale_gap: 0.25 }"
    both = [enlarged(x[0], 18, 16), enlarged(x[1, :, 1:-1, 1:-1], 18, 16)]
    expected = np.mean(both, 0)[None]
    check(single("ImResize", text, x.shape), {"x0": x}, {"out": expected})


def peaks(x: Array, parts: int, most: int, threshold: float) -> Array:
    _, _, height, width = x.shape
    flat = [float(v) for v in x.ravel()]
    top = np.zeros((1, parts, most + 1, 3))
    for c in range(parts):
        found = []
        for y in range(1, height - 1):
            for z in range(1, width - 1):
                value = x[0, c, y, z]
                beside = x[0, c, y - 1 : y + 2, z - 1 : z + 2].ravel().tolist()
                beside.remove(value)
                if value > max(threshold, *beside):
                    found.append((y, z))
        top[0, c, 0, 0] = len(found)
        for row, (y, z) in enumerate(found[:most], 1):
            total = mean_x = mean_y = 0.0
            for b in range(max(y - 3, 1), min(y + 4, width)):
                for a in range(max(z - 3, 1), min(z + 4, width)):
                    at = (c * height + b) * width + a
                    weight = flat[at] if at < len(flat) else 0.0
                    if weight > 0:
                        total += weight
                        mean_x += a * weight
                        mean_y += b * weight
            top[0, c, row] = mean_x / total, mean_y / total, x[0, c, y, z]
    return top


NMS = [
    ("threshold: 0.05 max_peaks: 64 num_parts: 3", 3, 64, 0.05),
    ("threshold: 0.05 max_peaks: 4 num_parts: 4", 4, 4, 0.05),
    ("max_peaks: 5 num_parts: 2", 2, 5, 0.5),
    ("threshold: 9 max_peaks: 5 num_parts: 2", 2, 5, 9),
]


@pytest.mark.parametrize(("text", "parts", "most", "threshold"), NMS)
def test_nms(text: str, parts: int, most: int, threshold: float) -> None:
    x = normal(1, 4, 12, 15)
    expected = peaks(x, parts, most, threshold)
    assert (expected[0, :, 0, 0] > 2).all() == (threshold < 9)
    net = single("Nms", f"nms_param {{ {text} }}", x.shape)
    check(net, {"x0": x}, {"out": expected})


def test_flat_maps_have_no_peaks() -> None:
    x = np.ones((1, 2, 6, 6), np.float32)
    text = "nms_param { max_peaks: 3 num_parts: 2 }"
    check(single("Nms", text, x.shape), {"x0": x}, {"out": np.zeros((1, 2, 4, 3))})


REFUSED = [
    ("Nms", "nms_param { num_parts: 5 }", (1, 4, 8, 8), "exceeds 4 maps"),
    ("Nms", "nms_param { num_parts: 2 }", (2, 4, 8, 8), "takes one image"),
    ("Nms", "nms_param { num_parts: 2 }", (1, 4, 9, 8), "higher than wide"),
    ("Nms", "nms_param { max_peaks: 0 }", (1, 4, 8, 8), "must be positive"),
    ("ImResize", "imresize_param { factor: 0.01 }", (1, 4, 8, 8), "0 x 0 pixels"),
    ("ImResize", "imresize_param { start_scale: 2 }", (1, 4, 8, 8), "cut off"),
    ("ImResize", "imresize_param { factor: inf }", (1, 4, 8, 8), "cannot be inf"),
]


@pytest.mark.parametrize(("type_", "text", "shape", "message"), REFUSED)
def test_refusals(type_: str, text: str, shape: tuple, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, shape))
