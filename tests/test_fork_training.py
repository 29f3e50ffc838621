"""What training nets of forks hold: data as inputs, losses left out, class weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

import caffe2flax
from tests.single import check, normal, single, source

NET = (
    'layer {{ name: "data" type: "{data}" top: "data" top: "label" {text} }}\n'
    'layer {{ name: "score" type: "InnerProduct" bottom: "data" top: "score" '
    "inner_product_param {{ num_output: 2 }} }}\n"
    'layer {{ name: "loss" type: "{loss}" bottom: "score" bottom: "label" '
    'top: "loss" {param} }}\n'
)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_unknown_data_and_losses(phase: str) -> None:
    """By their names and places they are inputs, and what training alone needs."""
    net = NET.format(
        data="DriveData2",
        text="drive_data_param { batch_size: 4 crop_size: 8 shape { a: 1 } }",
        loss="MarginLoss",
        param="margin_loss_param { margin: 2 }",
    )
    conversion = caffe2flax.convert(net, phase=phase)
    graph = conversion.graph
    assert [(v.blob, graph.shapes[v]) for v in graph.arguments] == [
        ("data", (4, 3, 8, 8))
    ]
    assert [value.blob for value in graph.outputs] == ["score"]
    assert any("DriveData2 is unknown" in note for note in conversion.notes)
    left = [note for note in conversion.notes if "'loss' is left out" in note]
    assert len(left) == (phase == "TRAIN")


def test_a_loss_that_weights_depend_on_is_refused() -> None:
    net = NET.format(data="MyData", text="", loss="RankLoss", param="") + (
        'layer { name: "more" type: "InnerProduct" bottom: "loss" top: "more" '
        "inner_product_param { num_output: 2 } }"
    )
    shapes = {"data": (1, 4), "label": (1,)}
    with pytest.raises(caffe2flax.ConversionError, match="RankLoss works on ground"):
        caffe2flax.convert(net, phase="TRAIN", input_shapes=shapes)


def test_a_type_is_not_taken_for_data_with_a_bottom() -> None:
    net = single("MergeData", "", (1, 2))
    with pytest.raises(caffe2flax.ConversionError, match="MergeData is not supported"):
        caffe2flax.convert(net)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("new_height: 6 new_width: 8", (6, 8)),
        ("new_height: 6 new_width: 8 crop_height: 4 crop_width: 5", (4, 5)),
    ],
)
def test_dense_image_data(text: str, size: tuple[int, int]) -> None:
    net = NET.format(
        data="DenseImageData",
        text=f"dense_image_data_param {{ source: 'x' batch_size: 2 {text} }}",
        loss="EuclideanLoss",
        param="",
    )
    graph = caffe2flax.convert(net).graph
    assert [graph.shapes[v] for v in graph.arguments] == [(2, 3, *size)]


def test_dense_images_of_unknown_size() -> None:
    net = 'layer { name: "d" type: "DenseImageData" top: "data" top: "label" }'
    with pytest.raises(caffe2flax.ConversionError, match="label=N,1,H,W"):
        caffe2flax.convert(net)


def test_class_weights() -> None:
    """SegNet's: each pixel's loss counts as often as its class weighs."""
    x = normal(2, 3, 2, 2)
    labels = np.array([0, 1, 2, 1, 255, 0, 2, 2], np.float32).reshape(2, 1, 2, 2)
    weights = (0.5, 2.0, 1.25)
    given = " ".join(f"class_weighting: {weight}" for weight in weights)
    net = source("x", x.shape) + source("label", labels.shape)
    net += (
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" '
        'top: "loss" loss_param { ignore_label: 255 weight_by_label_freqs: true '
        f"{given} }} }}"
    )
    total, count = 0.0, 0
    for n, i, j in np.ndindex(2, 2, 2):
        label = int(labels[n, 0, i, j])
        if label != 255:
            scores = [math.exp(value) for value in x[n, :, i, j]]
            total -= weights[label] * math.log(scores[label] / sum(scores))
            count += 1
    check(net, {"x": x, "label": labels}, {"loss": np.asarray(total / count)})
    unweighted = net.replace("weight_by_label_freqs: true", "")
    assert "class_weights=" not in caffe2flax.convert(unweighted).source
    with pytest.raises(caffe2flax.ConversionError, match="2 class_weighting for 3"):
        caffe2flax.convert(net.replace("class_weighting: 2.0", ""))
