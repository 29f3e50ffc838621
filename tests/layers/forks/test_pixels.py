"""Activations and resizes of Caffe's forks against loops written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single

ACTIVATIONS = {
    "relu6": ("ReLU6", "", lambda v: min(max(v, 0), 6)),
    "relu6_slope": (
        "ReLU6",
        "relu6_param { negative_slope: 0.1 threshold: 2 }",
        lambda v: min(v if v > 0 else 0.1 * v, 2),
    ),
    "hardsigmoid": ("HardSigmoid", "", lambda v: min(max(0.2 * v + 0.5, 0), 1)),
    "hard_sigmoid_param": (
        "HardSigmoid",
        "hard_sigmoid_param { alpha: 0.5 beta: 0.25 }",
        lambda v: min(max(0.5 * v + 0.25, 0), 1),
    ),
    "hardswish": ("HardSwish", "", lambda v: v * min(max(v + 3, 0), 6) / 6),
    "mish": ("Mish", "", lambda v: v * math.tanh(math.log1p(math.exp(v)))),
    "atan": ("Atan", "", math.atan),
    "selu": (
        "SeLU",
        "",
        lambda v: 1.050700987 * (v if v > 0 else 1.67326324 * math.expm1(v)),
    ),
    "selu_fields": (
        "SeLu",
        "selu_param { alpha: 2 lambda: 0.5 }",
        lambda v: 0.5 * (v if v > 0 else 2 * math.expm1(v)),
    ),
    "selu_dropout": (
        "SeLuDropout",
        "selu_dropout_param { dropout_ratio: 0.3 }",
        lambda v: v,
    ),
}


@pytest.mark.parametrize("case", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_activations(case: tuple) -> None:
    type_, text, function = case
    x = 4 * normal(2, 3, 4, 5)
    expected = np.vectorize(function, otypes=[float])(x.astype(np.float64))
    check(single(type_, text, x.shape), {"x0": x}, {"out": expected})


def bilinear(x: Array, rows: list[float], columns: list[float]) -> Array:
    """x (N, C, H, W) at the given places, clipped to the image, pixel by pixel."""
    top = np.zeros((*x.shape[:2], len(rows), len(columns)))
    for i, y in enumerate(rows):
        for j, z in enumerate(columns):
            y, z = (
                min(max(p, 0), n - 1) for p, n in zip((y, z), x.shape[2:], strict=True)
            )
            a, b = math.floor(y), math.floor(z)
            below, right = min(a + 1, x.shape[2] - 1), min(b + 1, x.shape[3] - 1)
            top[:, :, i, j] = (1 - y + a) * (
                (1 - z + b) * x[:, :, a, b] + (z - b) * x[:, :, a, right]
            ) + (y - a) * (
                (1 - z + b) * x[:, :, below, b] + (z - b) * x[:, :, below, right]
            )
    return top


def aligned(n: int, m: int) -> list[float]:
    return [i * (n - 1) / (m - 1) if m > 1 else 0.0 for i in range(m)]


def as_areas(n: int, m: int) -> list[float]:
    return [(i + 0.5) * n / m - 0.5 for i in range(m)]


def as_points(n: int, m: int) -> list[float]:
    return [i * n / m for i in range(m)]


INTERP = {
    "size": ("height: 9 width: 4", 0, 0, (9, 4)),
    "zoom": ("zoom_factor: 3", 0, 0, (13, 16)),
    "shrink": ("shrink_factor: 2", 0, 0, (3, 3)),
    "shrink_and_zoom": ("shrink_factor: 2 zoom_factor: 3", 0, 0, (7, 7)),
    "zoom_beats_size": ("zoom_factor: 2 height: 3 width: 3", 0, 0, (9, 11)),
    "size_beats_both": (
        "zoom_factor: 2 shrink_factor: 2 height: 3 width: 7",
        0,
        0,
        (3, 7),
    ),
    "cropped": ("height: 6 width: 5 pad_beg: -1 pad_end: -2", 1, 2, (6, 5)),
    "zoom_of_cropped": ("zoom_factor: 2 pad_beg: 0 pad_end: -1", 0, 1, (7, 9)),
    "one_pixel": ("height: 1 width: 1", 0, 0, (1, 1)),
    "same": ("height: 5 width: 6", 0, 0, (5, 6)),
}


@pytest.mark.parametrize("case", INTERP.values(), ids=INTERP.keys())
def test_interp(case: tuple) -> None:
    text, begin, end, size = case
    x = normal(2, 3, 5, 6)
    held = x[:, :, begin : 5 - end, begin : 6 - end]
    places = map(aligned, held.shape[2:], size)
    check(
        single("Interp", f"interp_param {{ {text} }}", x.shape),
        {"x0": x},
        {"out": bilinear(held, *places)},
    )


def test_interp_from_one_pixel() -> None:
    x = normal(1, 2, 1, 1)
    expected = np.broadcast_to(x, (1, 2, 4, 3))
    text = "interp_param { height: 4 width: 3 }"
    check(single("Interp", text, x.shape), {"x0": x}, {"out": expected})


BILINEAR = {
    "BilinearInterpolate": {
        "dst_h: 7 dst_w: 3": (aligned, (7, 3)),
        "dst_h: 7": (aligned, (7, 6)),
        "dst_h: 8 dst_w: 9 align_corners: false": (as_areas, (8, 9)),
        "scale_factor: 1.5": (aligned, (7, 9)),
        "scale_factor: 0.5 align_corners: false": (as_areas, (2, 3)),
    },
    "ResizeBilinear": {
        "output_height: 7 output_width: 3 data_format: 'NCHW'": (as_points, (7, 3)),
        "scale_height: 2 scale_width: 1.5 data_format: 'NCHW'": (as_points, (10, 9)),
        "output_height: 9 output_width: 8 align_corners: true data_format: 'NCHW'": (
            aligned,
            (9, 8),
        ),
        "output_height: 9 output_width: 8 half_pixel_centers: true "
        "data_format: 'NCHW'": (as_areas, (9, 8)),
        # With one row the place is -1/2: the first row.
        "output_height: 1 output_width: 8 pytorch_half_pixel: true "
        "data_format: 'NCHW'": (
            lambda n, m: as_areas(n, m) if m > 1 else [-0.5],
            (1, 8),
        ),
    },
}
PARAM = {
    "BilinearInterpolate": "bilinear_interpolate_param",
    "ResizeBilinear": "resize_bilinear_param",
    "ResizeNearestNeighbor": "resize_nearest_neighbor_param",
}


@pytest.mark.parametrize(
    ("type_", "text"),
    [(t, text) for t, cases in BILINEAR.items() for text in cases],
)
def test_bilinear(type_: str, text: str) -> None:
    places, size = BILINEAR[type_][text]
    x = normal(1, 2, 5, 6)
    check(
        single(type_, f"{PARAM[type_]} {{ {text} }}", x.shape),
        {"x0": x},
        {"out": bilinear(x, *map(places, (5, 6), size))},
    )


def test_channels_last_blobs() -> None:
    """data_format NHWC, the default, is about Caffe's own axes."""
    x = normal(1, 5, 6, 2)
    text = "resize_bilinear_param { output_height: 7 output_width: 4 }"
    expected = bilinear(
        x.transpose(0, 3, 1, 2), as_points(5, 7), as_points(6, 4)
    ).transpose(0, 2, 3, 1)
    check(single("ResizeBilinear", text, x.shape), {"x0": x}, {"out": expected})


NEAREST = {
    "output_height: 10 output_width: 9": lambda i, n, m: i * n / m,
    "scale_height: 0.4 scale_width: 2": lambda i, n, m: i * n / m,
    "output_height: 9 output_width: 11 align_corners: true": (
        lambda i, n, m: i * (n - 1) / (m - 1) + 0.5
    ),
    "output_height: 7 output_width: 4 half_pixel_centers: true": (
        lambda i, n, m: (i + 0.5) * n / m
    ),
    "output_height: 7 output_width: 4 half_pixel_onnx: true": (
        lambda i, n, m: (i + 0.5) * n / m - 0.5
    ),
}


@pytest.mark.parametrize("text", NEAREST)
def test_nearest(text: str) -> None:
    x = normal(1, 2, 5, 6)
    net = single(
        "ResizeNearestNeighbor",
        f"resize_nearest_neighbor_param {{ {text} data_format: 'NCHW' }}",
        x.shape,
    )
    ((out, *_),) = [caffe2flax.convert(net).graph.outputs]
    height, width = caffe2flax.convert(net).graph.shapes[out][2:]
    rows, columns = (
        [min(max(math.floor(NEAREST[text](i, n, m)), 0), n - 1) for i in range(m)]
        for n, m in ((5, height), (6, width))
    )
    check(net, {"x0": x}, {"out": x[:, :, rows][..., columns]})


def test_upsample_darknet() -> None:
    x = normal(1, 2, 3, 4)
    text = "upsample_darknet_param { stride: 3 }"
    expected = x.repeat(3, 2).repeat(3, 3)
    check(single("UpsampleDarknet", text, x.shape), {"x0": x}, {"out": expected})


REFUSED = {
    "interp_param { pad_beg: 1 height: 3 width: 3 }": ("Interp", "crop only"),
    "interp_param { height: 3 }": ("Interp", "give height and width"),
    "interp_param { height: 3 width: 3 pad_beg: -3 pad_end: -2 }": (
        "Interp",
        "leave nothing",
    ),
    "interp_param { zoom_factor: 0 }": ("Interp", "must be positive"),
    "bilinear_interpolate_param { dst_h: 1 dst_w: 4 }": (
        "BilinearInterpolate",
        "divides by zero",
    ),
    "bilinear_interpolate_param { dst_h: 2 scale_factor: 2 }": (
        "BilinearInterpolate",
        "give dst_h and dst_w, or",
    ),
    "resize_bilinear_param { align_corners: true half_pixel_centers: true }": (
        "ResizeBilinear",
        "exclude one another",
    ),
    "resize_bilinear_param { data_format: 'NCHWD' }": ("ResizeBilinear", "NHWC or"),
    "upsample_darknet_param { stride: 0 }": ("UpsampleDarknet", "positive"),
    "hardsigmoid_param { } hard_sigmoid_param { }": ("HardSigmoid", "not both"),
}


@pytest.mark.parametrize(("text", "case"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refusals(text: str, case: tuple[str, str]) -> None:
    type_, message = case
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, (1, 2, 5, 5)))
