"""Layers of optical flow against loops written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single

CORRELATIONS = {
    "plain": ("Correlation", "kernel_size: 1 max_displacement: 2 pad: 2"),
    "stride_2": (
        "Correlation",
        "kernel_size: 1 max_displacement: 4 pad: 4 stride_2: 2",
    ),
    "kernel": (
        "Correlation",
        "kernel_size: 3 max_displacement: 1 pad: 2 stride_1: 2 do_abs: true",
    ),
    "subtract": (
        "Correlation",
        "kernel_size: 3 max_displacement: 2 pad: 3 correlation_type: SUBTRACT",
    ),
    "no_pad": ("Correlation", "kernel_size: 1 max_displacement: 1 stride_1: 3"),
    "flat": ("Correlation1D", "kernel_size: 1 max_displacement: 3 pad: 3"),
    "left": (
        "Correlation1D",
        "kernel_size: 3 max_displacement: 4 pad: 4 single_direction: -1 stride_2: 2",
    ),
    "right": (
        "Correlation1D",
        "kernel_size: 1 max_displacement: 2 pad: 2 single_direction: 1",
    ),
}


def correlated(type_: str, text: str, a: Array, b: Array) -> Array:
    words = text.replace(":", "").split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    kernel, reach = int(given["kernel_size"]), int(given["max_displacement"])
    pad = int(given.get("pad", 0))
    strides = int(given.get("stride_1", 1)), int(given.get("stride_2", 1))
    flat = type_ == "Correlation1D"
    n, c, h, w = a.shape

    def at(x: Array, k: int, channel: int, i: int, j: int) -> float:
        i, j = i - (0 if flat else pad), j - pad
        return float(x[k, channel, i, j]) if 0 <= i < h and 0 <= j < w else 0.0

    steps = range(-(reach // strides[1]), reach // strides[1] + 1)
    left = [s - 1 for s in steps if s <= 0]
    ways = {"-1": left, "1": [s for s in steps if s >= 0]}
    columns = ways.get(given.get("single_direction", "0"), list(steps))
    shifts = [(i, j) for i in ([0] if flat else steps) for j in columns]
    radius = (kernel - 1) // 2
    high = h - 2 * radius if flat else h + 2 * pad - 2 * (reach + radius)
    wide = w + 2 * pad - 2 * (reach + radius)
    top = np.zeros((n, len(shifts), -(-high // strides[0]), -(-wide // strides[0])))
    for k, m, i, j in np.ndindex(*top.shape):
        y = i * strides[0] + (0 if flat else reach)
        x = j * strides[0] + reach
        dy, dx = (s * strides[1] for s in shifts[m])
        for channel, p, q in np.ndindex(c, kernel, kernel):
            one = at(a, k, channel, y + p, x + q)
            other = at(b, k, channel, y + p + dy, x + q + dx)
            both = abs(one - other) if "SUBTRACT" in text else one * other
            top[k, m, i, j] += both / (kernel * kernel * c)
    return top


@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlation(name: str) -> None:
    type_, text = CORRELATIONS[name]
    a, b = normal(2, 3, 6, 7), normal(2, 3, 6, 7)
    net = single(type_, f"correlation_param {{ {text} }}", a.shape, b.shape)
    check(net, {"x0": a, "x1": b}, {"out": correlated(type_, text, a, b)})


@pytest.mark.parametrize("fill", ["", "flow_warp_param { fill_value: NOT_A_NUMBER }"])
def test_flow_warp(fill: str) -> None:
    x, flow = normal(2, 3, 5, 6), 2 * normal(2, 2, 5, 6)
    # Whole steps, and places in the last pixel.
    flow[0, :, 0] = 1
    flow[1, :, 4, 5] = 0.25
    expected = np.full(x.shape, math.nan if fill else 0.0)
    for k, i, j in np.ndindex(2, 5, 6):
        z = float(np.float32(j) + flow[k, 0, i, j])
        y = float(np.float32(i) + flow[k, 1, i, j])
        if 0 <= z < 6 and 0 <= y < 5:
            value = np.zeros(3)
            for p, q in np.ndindex(2, 2):
                weight = abs(1 - p - y % 1) * abs(1 - q - z % 1)
                value += weight * x[k, :, min(int(y) + p, 4), min(int(z) + q, 5)]
            expected[k, :, i, j] = value
    net = single("FlowWarp", fill, x.shape, flow.shape)
    if not fill:
        check(net, {"x0": x, "x1": flow}, {"out": expected})
        return
    ours = caffe2flax.run(net, None, {"x0": x, "x1": flow})["out"]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    assert np.isnan(expected).any()


def test_channel_norm() -> None:
    x = normal(2, 3, 4, 5)
    x[0, :, 0, 0] = 0
    expected = np.array(
        [
            [[math.hypot(*x[n, :, i, j]) for j in range(5)] for i in range(4)]
            for n in (0, 1)
        ]
    )[:, None]
    check(single("ChannelNorm", "", x.shape), {"x0": x}, {"out": expected})


def test_the_norm_of_nothing_has_a_gradient() -> None:
    import jax

    model = caffe2flax.load(single("ChannelNorm", "", (1, 2, 1, 1)))
    gradient = jax.grad(lambda x: model(x).sum())(np.zeros((1, 1, 1, 2), np.float32))
    assert not np.asarray(gradient).any()


def aligned(x: Array, rows: int, columns: int) -> Array:
    n, c, h, w = x.shape
    top = np.zeros((n, c, rows, columns))
    for i, j in np.ndindex(rows, columns):
        y, z = i * (h - 1) / (rows - 1), j * (w - 1) / (columns - 1)
        for p, q in np.ndindex(h, w):
            weight = max(1 - abs(y - p), 0) * max(1 - abs(z - q), 0)
            top[:, :, i, j] += weight * x[:, :, p, q]
    return top


ACCUMS = {
    "": ((5, 6), 0),
    "accum_param { size_divisible_by: 4 }": ((8, 8), 0),
    "accum_param { size_divisible_by: 3 }": ((5, 6), 0),
    "accum_param { top_height: 7 top_width: 9 }": ((7, 9), 0),
    "accum_param { top_height: 7 top_width: 3 }": ((5, 6), 0),
    "accum_param { have_reference: true }": ((3, 4), 1),
}


@pytest.mark.parametrize("text", ACCUMS)
def test_accum(text: str) -> None:
    size, last = ACCUMS[text]
    blobs = [normal(2, 2, 5, 6), normal(2, 3, 4, 3), normal(2, 1, 3, 4)]
    joined = blobs[: len(blobs) - last]
    expected = np.concatenate([aligned(x, *size) for x in joined], 1)
    net = single("Accum", text, *(x.shape for x in blobs))
    given = {f"x{i}": x for i, x in enumerate(blobs[: len(blobs) - last])}
    if last:
        given["x2"] = blobs[2]
    check(net, given, {"out": expected})


MEANS = [
    ("operation: SUBTRACT value: 0.5", lambda x, c: x - 0.5),
    (
        "operation: ADD value: 1 value: 2 mean_scale: 3",
        lambda x, c: x + 3 * (1 + c % 2),
    ),
    (
        "operation: 4 value: 2 input_scale: 0.5 output_scale: 3",
        lambda x, c: 3 * (0.5 * x - 2),
    ),
]


@pytest.mark.parametrize(("text", "function"), MEANS)
def test_mean(text: str, function: object) -> None:
    x, y = normal(2, 4, 3, 2), normal(1, 4, 5, 4)
    text = f"mean_param {{ {text} }}"
    expected = {
        name: np.stack(
            [function(b[:, c].astype(float), c) for c in range(b.shape[1])], 1
        )
        for name, b in (("a", x), ("b", y))
    }
    net = single("Mean", text, x.shape, y.shape, tops="a b")
    check(net, {"x0": x, "x1": y}, expected)
    check(single("Mean", text, x.shape), {"x0": x}, {"out": expected["a"]})


def kernel(way: str, d: float) -> float:
    d = abs(d)
    if way == "LINEAR":
        return max(1 - d, 0)
    if d <= 1:
        return d * d * (1.5 * d - 2.5) + 1
    return d * (d * (-0.5 * d + 2.5) - 4) + 2 if d < 2 else 0


def resampled(x: Array, way: str, antialias: bool, rows: int, columns: int) -> Array:
    """By the four sums of the fork, both axes at once."""
    n, c, h, w = x.shape
    fy, fx = h / rows, w / columns
    smooth = antialias and (fx > 1 or fy > 1)
    ax, ay = (1 / fx, 1 / fy) if smooth else (1, 1)
    most = 4 if way == "CUBIC" else 2
    rx = 2 if fx < 1 else math.ceil(most / ax)
    ry = 2 if fy < 1 else math.ceil(most / ay)
    top = np.zeros((n, c, rows, columns))
    for i, j in np.ndindex(rows, columns):
        y, z = i * fy + fx / 2 - 0.5, j * fx + fy / 2 - 0.5
        near_y, near_z = (
            int(math.copysign(math.floor(abs(p) + 0.5), p)) for p in (y, z)
        )
        total = 0.0
        for p in range(max(near_y - ry, 0), min(near_y + ry, h - 1) + 1):
            for q in range(max(near_z - rx, 0), min(near_z + rx, w - 1) + 1):
                weight = ax * kernel(way, ax * (z - q)) * ay * kernel(way, ay * (y - p))
                top[:, :, i, j] += weight * x[:, :, p, q]
                total += weight
        top[:, :, i, j] /= total or 1
    return top


RESAMPLES = [
    ("LINEAR", True, (10, 12)),
    ("LINEAR", True, (3, 2)),
    ("LINEAR", False, (3, 3)),
    ("CUBIC", True, (10, 12)),
    ("CUBIC", True, (2, 3)),
    ("CUBIC", False, (4, 9)),
    ("LINEAR", True, (5, 6)),
]


@pytest.mark.parametrize(("way", "antialias", "size"), RESAMPLES)
def test_resample(way: str, antialias: bool, size: tuple[int, int]) -> None:
    x = normal(2, 2, 5, 6)
    text = (
        f"resample_param {{ type: {way} antialias: {str(antialias).lower()} "
        f"height: {size[0]} width: {size[1]} }}"
    )
    expected = resampled(x, way, antialias, *size)
    check(single("Resample", text, x.shape), {"x0": x}, {"out": expected})
    like = normal(2, 1, *size)
    text = f"resample_param {{ type: {way} antialias: {str(antialias).lower()} }}"
    net = single("Resample", text, x.shape, like.shape)
    check(net, {"x0": x, "x1": like}, {"out": expected})


def test_resample_nearest() -> None:
    x = normal(1, 2, 4, 6)
    text = "resample_param { type: NEAREST height: 8 width: 12 }"
    expected = x.repeat(2, 2).repeat(2, 3)
    check(single("Resample", text, x.shape), {"x0": x}, {"out": expected})
    text = "resample_param { type: NEAREST height: 2 width: 3 }"
    expected = x[:, :, 1::2, 1::2]
    check(single("Resample", text, x.shape), {"x0": x}, {"out": expected})


REFUSED = [
    (
        "Correlation",
        "correlation_param { kernel_size: 2 max_displacement: 1 }",
        2,
        "odd",
    ),
    (
        "Correlation",
        "correlation_param { kernel_size: 1 max_displacement: 4 }",
        2,
        "fit",
    ),
    (
        "Correlation",
        "correlation_param { kernel_size: 1 max_displacement: 1 single_direction: 1 }",
        2,
        "for Correlation1D",
    ),
    ("FlowWarp", "", 2, "a flow over"),
    ("Resample", "resample_param { height: 4 }", 1, "must be positive"),
    ("Resample", "resample_param { type: AREA height: 4 width: 4 }", 1, "aborts on"),
    (
        "Resample",
        "resample_param { type: NEAREST height: 60 width: 1 }",
        1,
        "beyond the image",
    ),
    ("Mean", "mean_param { value: 1 }", 1, "needs operation"),
    ("Mean", "mean_param { operation: ADD file: 'x' }", 1, "not opened"),
    ("Mean", "mean_param { operation: ADD value: 1 value: 2 }", 1, "no multiple of 2"),
    ("Accum", "accum_param { have_reference: true }", 1, "a bottom of its own"),
    ("Accum", "accum_param { size_divisible_by: 0 }", 1, "must be positive"),
]


@pytest.mark.parametrize(("type_", "text", "bottoms", "message"), REFUSED)
def test_refusals(type_: str, text: str, bottoms: int, message: str) -> None:
    net = single(type_, text, *[(1, 3, 6, 6)] * bottoms)
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net)
