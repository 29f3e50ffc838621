"""Layers of forks for training: data as inputs, losses left out, class weights."""

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
        ("new_height: 6 new_width: 8 label_divide_factor: 2", (6, 8)),
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
    data = net.partition("\n")[0]
    graph = caffe2flax.convert(data).graph
    half = "label_divide_factor" in text
    labels = (2, 1, *(extent // (1 + half) for extent in size))
    assert [graph.shapes[v] for v in graph.arguments] == [(2, 3, *size), labels]


def test_dense_images_of_unknown_size() -> None:
    net = 'layer { name: "d" type: "DenseImageData" top: "data" top: "label" }'
    graph = caffe2flax.convert(net).graph
    assert graph.sizes.assumed == set(graph.arguments)
    shapes = [graph.shapes[v] for v in graph.arguments]
    assert shapes == [(1, 3, 224, 224), (1, 1, 224, 224)]
    assert [note.partition("=")[0][-5:] for note in graph.remarks.notes] == [
        " data",
        "label",
    ]


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


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_names_that_hold_data_and_loss(phase: str) -> None:
    """As forks name them; what writes files or counts hits is no part of the net."""
    net = NET.format(data="MultiLabelImageDataLayer", text="", param="",
                     loss="EuclideanLossHeatmap") + (
        'layer { name: "hits" type: "Recall" bottom: "score" bottom: "label" '
        'top: "hits" }\n'
        'layer { name: "file" type: "MatWrite" bottom: "score" '
        'mat_write_param { prefix: "x" } }'
    )  # fmt: skip
    shapes = {"data": (1, 4), "label": (1,)}
    graph = caffe2flax.convert(net, phase=phase, input_shapes=shapes).graph
    assert [value.blob for value in graph.outputs] == ["score"]


PYTHON = (
    'layer {{ name: "data" type: "Python" top: "data" top: "label" '
    "python_param {{ module: 'voc_layers' layer: 'VOCSegDataLayer' param_str: 'x' }} }}"
    'layer {{ name: "score" type: "InnerProduct" bottom: "data" top: "score" '
    "inner_product_param {{ num_output: 2 }} }}\n"
    'layer {{ name: "l" type: "Python" bottom: "score" bottom: "label" top: "l" '
    "python_param {{ module: 'pyloss' layer: '{name}' }} loss_weight: 1 }}"
)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_python_for_training(phase: str) -> None:
    """Code without bottoms is data; a loss is for training only."""
    net = PYTHON.format(name="EuclideanLossLayer")
    (assumed,) = caffe2flax.convert(net, phase=phase).graph.sizes.assumed
    assert assumed.blob == "data"
    conversion = caffe2flax.convert(net, phase=phase, input_shapes={"data": (2, 3)})
    assert [value.blob for value in conversion.graph.outputs] == ["score"]
    assert any("VOCSegDataLayer" in note for note in conversion.notes)


def test_unknown_python() -> None:
    net = PYTHON.format(name="Mixer")
    with pytest.raises(caffe2flax.ConversionError, match="'Mixer' of 'pyloss' is code"):
        caffe2flax.convert(net, input_shapes={"data": (2, 3), "label": (2,)})


DETECTNET = (
    'layer {{ name: "data" type: "Data" top: "data" data_param {{ source: "a" '
    "batch_size: 2 }} }} "
    'layer {{ name: "label" type: "Data" top: "label" data_param {{ source: "b" '
    "batch_size: 2 }} }} "
    'layer {{ name: "t" type: "DetectNetTransformation" bottom: "data" '
    'bottom: "label" top: "seen" top: "map" detectnet_groundtruth_param {{ {text} }} '
    "detectnet_augmentation_param {{ crop_prob: 1 }} }}"
    'layer {{ name: "conv" type: "Convolution" bottom: "seen" top: "conv" '
    "convolution_param {{ num_output: 2 kernel_size: 1 }} }}\n"
)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_detectnet_transformation(phase: str) -> None:
    """What it computes from images and boxes is an input, in either phase."""
    text = "stride: 16 image_size_x: 64 image_size_y: 48 object_class { src: 1 dst: 2 }"
    given = {"data": (2, 3, 60, 70), "label": (2, 1, 8, 16)}
    net = DETECTNET.format(text=text)
    graph = caffe2flax.convert(net, phase=phase, input_shapes=given).graph
    assert {v.blob: graph.shapes[v] for v in graph.arguments}["seen"] == (2, 3, 48, 64)
    (made,) = [n for n in graph.inputs if n.layer.type == "DetectNetTransformation"]
    assert graph.shapes[made.outputs[1]] == (2, 11, 3, 4)
    with pytest.raises(caffe2flax.ConversionError, match="stride must be positive"):
        caffe2flax.convert(DETECTNET.format(text="stride: 0"), phase=phase)


def test_margins_serve_training() -> None:
    """SphereFace's: a layer of labels between features and loss."""
    net = NET.format(data="ImageData2", text="", loss="AngleLoss", param="").replace(
        'bottom: "score" bottom: "label"', 'bottom: "m" bottom: "label"'
    ) + (
        'layer { name: "m" type: "MarginInnerProduct" bottom: "score" bottom: "label" '
        'top: "m" top: "lambda" margin_inner_product_param { type: QUADRUPLE } }'
    )  # fmt: skip
    first, second, loss, margin = net.strip().split("layer {")[1:]
    net = "".join(f"layer {{{part}" for part in (first, second, margin, loss))
    shapes = {"data": (1, 4), "label": (1,)}
    for phase in ("TEST", "TRAIN"):
        graph = caffe2flax.convert(net, phase=phase, input_shapes=shapes).graph
        assert [value.blob for value in graph.outputs] == ["score"]


@pytest.mark.parametrize(
    ("type_", "why"),
    [
        ("DenseCRF", "end the net at the scores"),
        ("ConvolutionBNFixed", "rounds numbers to few bits"),
        ("RPROI", "put Proposal and ROIPooling"),
        ("DeformableConvolution", "in two ways at the edges of images"),
        ("Permutation", "put Permute in its place"),
    ],
)
def test_known_types_are_refused_with_a_reason(type_: str, why: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=why):
        caffe2flax.convert(single(type_, "", (1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("word", "type_"), [("PRELU", "PReLU"), ("CROP", "Crop"), ("RELU6", "ReLU6")]
)
def test_words_that_forks_added_to_the_older_format(word: str, type_: str) -> None:
    bottoms = 'bottom: "x" ' + ('bottom: "x"' if word == "CROP" else "")
    net = (
        'input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 '
        f'layers {{ name: "l" type: {word} {bottoms} top: "y" }}'
    )
    (node,) = caffe2flax.convert(net, dialect={"Crop": "bvlc"}).graph.nodes
    assert node.layer.type == type_


DATA = (
    "layer { name: 'd' type: 'Data' top: 'data' top: 'label' transform_param "
    "{ crop_size: 4 } data_param { batch_size: 2 } }\n"
    "layer { name: 'c' type: 'InnerProduct' bottom: 'data' top: 'c' "
    "param { lr_mult: 1 sparsity: 3 } inner_product_param { num_output: 5 } }\n"
)
ENDS = {
    "an unknown type": ("type: 'Strange' bottom: 'c' bottom: 'label' top: 'x'", ""),
    "an unknown field": (
        "type: 'SoftmaxWithLoss' bottom: 'c' bottom: 'label' softmax_param { hard: 1 }",
        "left out as it is (unknown field hard in softmax_param)",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_reads_labels_at_the_end_stops_no_net_at_test(name: str) -> None:
    """Nor do fields about training; a note names what is passed over."""
    fields, said = ENDS[name]
    conversion = caffe2flax.convert(f"{DATA}layer {{ name: 'l' {fields} }}")
    assert [v.blob for v in conversion.graph.outputs] == ["c"]
    assert [v.blob for v in conversion.graph.arguments] == ["data"]
    assert any(said in note for note in conversion.notes)
    assert any("sparsity in param" in note for note in conversion.notes)


def test_what_reads_labels_counts_where_it_is_read_or_misspelt() -> None:
    strange = "type: 'Strange' bottom: 'c' bottom: 'label' top: 'x' }"
    read = f"layer {{ name: 'l' {strange} layer {{ name: 'r' type: 'ReLU' "
    read += "bottom: 'x' top: 'y' }"
    wrong = "layer { name: 'l' type: 'SoftmaxWithLos' bottom: 'c' bottom: 'label' }"
    for text in (read, wrong):
        with pytest.raises(caffe2flax.ConversionError, match="is not supported"):
            caffe2flax.convert(DATA + text)
