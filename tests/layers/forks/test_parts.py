"""Pieces that forks took out of larger layers, and distances, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from tests.layers.forks.test_detection import (
    CLASSES,
    OPTIONS,
    PRIORS,
    by_reference,
    predictions,
)
from tests.layers.forks.test_pixels import aligned, bilinear
from tests.single import Array, check, normal, single, weights_file

CODES = ["", "code_type: CENTER_SIZE", "code_type: CORNER_SIZE"]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_ssd_decoder(code: str, encoded: bool) -> None:
    given = predictions(1)
    flag = "variance_encoded_in_target: true" if encoded else ""
    text = f"detection_output_param {{ num_classes: {CLASSES} {code} {flag} }}"
    boxes, variances = given["prior"].astype(float).reshape(2, PRIORS, 4)
    shifts = given["loc"].reshape(PRIORS, 4) * (1 if encoded else variances)
    expected = np.empty((1, 1, PRIORS, 4))
    for p, ((x0, y0, x1, y1), d) in enumerate(zip(boxes, shifts, strict=True)):
        w, h = x1 - x0, y1 - y0
        if "CENTER" in code:
            x, y = (x0 + x1) / 2 + d[0] * w, (y0 + y1) / 2 + d[1] * h
            w, h = w * np.exp(d[2]), h * np.exp(d[3])
            expected[0, 0, p] = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        else:
            sizes = (w, h, w, h) if code else (1, 1, 1, 1)
            expected[0, 0, p] = boxes[p] + d * sizes
    net = single("SSDDecoder", text, given["loc"].shape, given["prior"].shape)
    check(net, {"x0": given["loc"], "x1": given["prior"]}, {"out": expected})


@pytest.mark.parametrize("options", [o for o in OPTIONS if "share" not in o])
def test_ssd_sort(options: str) -> None:
    """As DetectionOutput finds them with boxes that nothing moves."""
    given = predictions(1)
    boxes = given["prior"][:, :1].reshape(1, 1, PRIORS, 4)
    text = f"detection_output_param {{ num_classes: {CLASSES} {options} }}"
    still = np.zeros_like(given["loc"])
    shapes = still.shape, given["conf"].shape, given["prior"].shape
    whole = single("DetectionOutput", text, *shapes)
    inputs = {"x0": still, "x1": given["conf"], "x2": given["prior"]}
    expected = by_reference(whole, inputs)
    net = single("SSDSort", text, boxes.shape, given["conf"].shape)
    inputs = {"x0": boxes, "x1": given["conf"]}
    check(net, inputs, {"out": expected})


@pytest.mark.parametrize("size", [(33, 65), (20, 40), (35, 66)])
def test_icnet_subgraph(size: tuple[int, int]) -> None:
    x = normal(1, 2, *size)
    expected = x.astype(float)
    for (kh, sh), (kw, sw) in (
        ((33, 33), (65, 65)),
        ((17, 16), (33, 32)),
        ((13, 10), (25, 20)),
        ((8, 5), (15, 10)),
    ):
        rows, columns = (
            max(-(-(n - k) // s), 0) + 1
            for n, k, s in zip(size, (kh, kw), (sh, sw), strict=True)
        )
        pooled = np.empty((1, 2, rows, columns))
        for i, j in np.ndindex(rows, columns):
            block = x[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw]
            pooled[:, :, i, j] = block.astype(float).mean((2, 3))
        places = aligned(rows, size[0]), aligned(columns, size[1])
        expected = expected + bilinear(pooled, *places)
    check(single("ICNetSubgraph", "", x.shape), {"x0": x}, {"out": expected})


def apart(x: Array, points: Array, absolute: bool) -> Array:
    top = np.zeros((len(x), len(points)))
    for i, j in np.ndindex(*top.shape):
        for a, b in zip(x[i].ravel(), points[j].ravel(), strict=True):
            d = float(a) - float(b)
            top[i, j] += abs(d) if absolute else d * d
    return top


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("way", ["L1", "L2"])
def test_inner_distance(way: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = normal(*shape)
    weight = normal(5, int(np.prod(shape[1:])))
    file = weights_file(tmp_path / "w.caffemodel", {"l": [weight]})
    text = f'inner_distance_param {{ num_output: 5 distance_type: "{way}" }}'
    expected = apart(x, weight, way == "L1")
    check(single("InnerDistance", text, shape), {"x0": x}, {"out": expected}, file)
    unit = weight / np.sqrt((weight.astype(float) ** 2).sum(1, keepdims=True) + 1e-6)
    text = text.replace("}", "normalize: true }")
    expected = apart(x, unit, way == "L1")
    check(single("InnerDistance", text, shape), {"x0": x}, {"out": expected}, file)


def test_inner_distance_to_a_blob() -> None:
    x, points = normal(3, 2, 4), normal(6, 4)
    text = "inner_distance_param { axis: 2 }"
    expected = np.stack([apart(item, points, False) for item in x])
    net = single("InnerDistance", text, x.shape, points.shape)
    check(net, {"x0": x, "x1": points}, {"out": expected})


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
def test_l2_normalize(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    expected = np.stack([v / np.sqrt(float((v * v).sum()) + 1e-7) for v in x])
    check(single("L2Normalize", "", shape), {"x0": x}, {"out": expected})


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", (1, -1)),
        ("flip_param { flip_height: true }", (-1, -1)),
        ("flip_param { flip_width: false flip_height: true }", (-1, 1)),
        ("flip_param { flip_width: false }", (1, 1)),
    ],
)
def test_flip(text: str, steps: tuple[int, int]) -> None:
    x = normal(2, 3, 4, 5)
    expected = x[:, :, :: steps[0], :: steps[1]]
    check(single("Flip", text, x.shape), {"x0": x}, {"out": expected})


BOXES = "detection_output_param { num_classes: 3 share_location: false }"
PLAIN = "detection_output_param { num_classes: 3 }"
REFUSED = [
    ("SSDDecoder", BOXES, [(1, 8), (1, 2, 8)], "boxes of each class"),
    (
        "SSDDecoder",
        BOXES.replace("share_location: false", ""),
        [(2, 8), (1, 2, 8)],
        "offsets",
    ),
    ("SSDSort", BOXES, [(1, 1, 2, 4), (1, 6)], "boxes of each class"),
    ("SSDSort", PLAIN, [(1, 2), (1, 6)], "boxes"),
    ("InnerDistance", "", [(2, 3)], "a positive num_output"),
    ("InnerDistance", "", [(2, 3), (4, 2)], "rows of 3 numbers"),
    (
        "InnerDistance",
        "inner_distance_param { num_output: 2 transpose: true }",
        [(2, 3)],
        "transpose",
    ),
    (
        "InnerDistance",
        'inner_distance_param { num_output: 2 distance_type: "L3" }',
        [(2, 3)],
        "L1 or L2",
    ),
    ("Flip", "", [(2, 3)], "4 axes"),
]


@pytest.mark.parametrize(("type_", "text", "shapes", "message"), REFUSED)
def test_refusals(type_: str, text: str, shapes: list, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, *shapes))


@pytest.mark.parametrize("type_", ["Gather", "Scatter"])
def test_one_process_has_the_whole_batch(type_: str) -> None:
    x, label = normal(2, 3, 4, 5), normal(2)
    net = single(type_, "", x.shape, label.shape, tops="a b")
    check(net, {"x0": x, "x1": label}, {"a": x, "b": label})
    check(single(type_, "", x.shape), {"x0": x}, {"out": x})
    with pytest.raises(caffe2flax.ConversionError, match="as many tops as bottoms"):
        caffe2flax.convert(single(type_, "", x.shape, label.shape))
