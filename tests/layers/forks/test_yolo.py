"""Detections of YOLO and decoded sequences against loops written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

import caffe2flax
from caffe2flax.verification import reference
from tests.golden import distance
from tests.single import Array, check, normal, single

BIASES = [(1.5, 2.0), (3.0, 1.0), (0.7, 0.9)]


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def shares(a: list[float], b: list[float]) -> float:
    """Intersection over union of boxes by middle, width and height."""
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2)
        - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2)
        for i in (0, 1)
    ]
    common = 0.0 if min(sides) < 0 else sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def detections(
    maps: list[Array],
    anchors: list[list[tuple[float, float]]],
    scales: list[int],
    threshold: float,
    overlap: float,
    softmax: bool,
) -> Array:
    found = []
    for x, pairs, scale in zip(maps, anchors, scales, strict=True):
        each = x.shape[1] // len(pairs)
        for n, i, j, a in np.ndindex(len(x), *x.shape[2:], len(pairs)):
            v = [float(x[n, a * each + k, i, j]) for k in range(each)]
            box = [
                (j + sigmoid(v[0])) / x.shape[3],
                (i + sigmoid(v[1])) / x.shape[2],
                math.exp(v[2]) * pairs[a][0] / (x.shape[3] * scale),
                math.exp(v[3]) * pairs[a][1] / (x.shape[2] * scale),
            ]
            if softmax:
                powers = [math.exp(s) for s in v[5:]]
                best = max(range(len(powers)), key=powers.__getitem__)
                score = sigmoid(v[4]) * powers[best] / sum(powers)
                passing = [(best, score)] if score >= threshold else []
            else:
                scores = [sigmoid(v[4]) * sigmoid(s) for s in v[5:]]
                passing = [(c, s) for c, s in enumerate(scores) if s > threshold]
            found += [(score, label, box) for label, score in passing]
    found.sort(key=lambda each: -each[0])
    gone: set[int] = set()
    rows = []
    for i, (score, label, (x, y, w, h)) in enumerate(found):
        if i in gone:
            continue
        later = range(i + 1, len(found))
        gone |= {j for j in later if shares(found[i][2], found[j][2]) >= overlap}
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        rows.append([0, label + 1, score, *corners])
    if not rows:
        rows = [[n, *[-1] * 6] for n in range(len(maps[0]))]
    return np.array(rows)[None, None]


def rows_of(net: str, maps: list[Array], expected: Array) -> None:
    inputs = {f"x{i}": x for i, x in enumerate(maps)}
    (ours,) = caffe2flax.run(net, None, inputs).values()
    assert ours.shape == expected.shape
    assert distance(ours, expected) <= 1e-5
    conversion = caffe2flax.convert(net)
    graph = conversion.graph
    told = reference.evaluate(graph, conversion.blobs, inputs)[graph.outputs[0]]
    assert told.shape == graph.shapes[graph.outputs[0]]
    told = told[:, :, told[0, 0, :, 0] >= 0]
    assert distance(told, expected) <= 1e-5


def biases(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"biases: {side}" for pair in pairs for side in pair)


@pytest.mark.parametrize("threshold", [0.2, 0.999])
@pytest.mark.parametrize("count", [1, 2])
def test_second_version(threshold: float, count: int) -> None:
    maps = [normal(2, 3 * 7, size, size) for size in (4, 2)[:count]]
    text = f"""yolo_detection_output_param {{ num_classes: 2 num_box: 3 side: 9
      confidence_threshold: {threshold} nms_threshold: 0.3 {biases(BIASES)} }}"""
    net = single("YoloDetectionOutput", text, *(x.shape for x in maps))
    expected = detections(
        maps, [BIASES] * count, [1] * count, np.float32(threshold), 0.3, True
    )
    rows_of(net, maps, expected)


@pytest.mark.parametrize("threshold", [0.4, 0.999])
def test_third_version(threshold: float) -> None:
    maps = [normal(2, 2 * 8, 3, 4), normal(2, 2 * 8, 6, 8)]
    pairs = [(20.0, 30.0), (60.0, 40.0), (10.0, 12.0), (15.0, 8.0)]
    text = f"""yolov3_detection_output_param {{ num_classes: 3 num_box: 2
      confidence_threshold: {threshold} nms_threshold: 0.45 {biases(pairs)}
      mask_group_num: 2 mask: [0, 1, 2, 3] anchors_scale: 32 anchors_scale: 16 }}"""
    net = single("Yolov3DetectionOutput", text, *(x.shape for x in maps))
    expected = detections(
        maps, [pairs[:2], pairs[2:]], [32, 16], np.float32(threshold), 0.45, False
    )
    rows_of(net, maps, expected)


@pytest.mark.parametrize(
    ("type_", "text", "shape", "message"),
    [
        (
            "YoloDetectionOutput",
            "yolo_detection_output_param { num_classes: 2 num_box: 1 biases: [1, 1] }",
            (1, 8, 2, 2),
            "need 7 channels",
        ),
        (
            "YoloDetectionOutput",
            "yolo_detection_output_param { num_classes: 2 num_box: 1 biases: [1, 1] }",
            (1, 7, 2, 3),
            "must be square",
        ),
        (
            "YoloDetectionOutput",
            "yolo_detection_output_param { num_classes: 2 biases: 1 }",
            (1, 7, 2, 2),
            "a width and a height",
        ),
        (
            "Yolov3DetectionOutput",
            "yolov3_detection_output_param { num_classes: 2 biases: [1, 1] mask: 1 "
            "anchors_scale: 1 num_box: 1 mask_group_num: 1 }",
            (1, 7, 2, 2),
            "mask counts 1 pairs",
        ),
        (
            "Yolov3DetectionOutput",
            "yolov3_detection_output_param { num_classes: 2 biases: [1, 1] mask: 0 "
            "anchors_scale: 1 num_box: 1 }",
            (1, 7, 2, 2),
            "mask_group_num is 2",
        ),
    ],
)
def test_refusals(type_: str, text: str, shape: tuple, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, shape))


@pytest.mark.parametrize("text", ["", "ctc_merge_repeated: false blank_index: 1"])
def test_greedy_decoder(text: str) -> None:
    x = normal(9, 3, 4)
    x[2:5, 1] = x[2, 1]
    goes_on = np.ones((9, 3), np.float32)
    goes_on[0], goes_on[6:, 2] = 0, 0
    blank, merges = (1, False) if text else (3, True)
    top, scores = np.full((3, 9, 1, 1), -1.0), np.zeros((3, 1, 1, 1))
    for n in range(3):
        classes = []
        for t in range(9 if n < 2 else 6):
            classes.append(int(np.argmax(x[t, n])))
            scores[n] -= x[t, n].max()
        before = [None, *classes]
        kept = [
            c
            for c, b in zip(classes, before, strict=False)
            if c != blank and not (merges and c == b)
        ]
        top[n, : len(kept), 0, 0] = kept
    net = single(
        "CTCGreedyDecoder",
        f"ctc_decoder_param {{ {text} }}",
        x.shape,
        goes_on.shape,
        tops="out score",
    )
    check(net, {"x0": x, "x1": goes_on}, {"out": top, "score": scores})
