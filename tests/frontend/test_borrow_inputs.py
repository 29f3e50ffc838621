"""Inputs that a net lacks in a phase, taken from the data layers of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffe2flax
from tests.single import normal, single, weights_file

DATA = (
    "layer {{ name: '{name}' type: 'Data' {tops} {rules} transform_param "
    "{{ crop_size: {size} }} data_param {{ batch_size: {batch} }} }}"
)
NET = (
    "layer { name: 'fc' type: 'InnerProduct' bottom: 'data' top: 'fc' "
    "inner_product_param { num_output: 3 } }"
    "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'fc' bottom: 'label' "
    "top: 'loss' }"
)


def data(name: str, rules: str, size: int, batch: int, tops: str = "data label") -> str:
    made = " ".join(f"top: '{top}'" for top in tops.split())
    return DATA.format(name=name, tops=made, rules=rules, size=size, batch=batch)


TRAIN, TEST = "include { phase: TRAIN }", "include { phase: TEST }"
VAL = "include { phase: TEST stage: 'val' }"

CASES: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "data of training at test": (
        data("d", TRAIN, 8, 4),
        {},
        {"data": (4, 3, 8, 8)},
        "1:1: no layer of TEST makes data, label",
    ),
    "data of test in training": (
        data("d", TEST, 8, 4),
        {"phase": "TRAIN"},
        {"data": (4, 3, 8, 8), "label": (4,)},
        "no layer of TRAIN makes data, label",
    ),
    "the other phase before another stage": (
        data("v", VAL, 6, 2) + data("d", TRAIN, 8, 4),
        {},
        {"data": (4, 3, 8, 8)},
        "makes data, label",
    ),
    "another stage where nothing else is": (
        data("v", VAL, 6, 2),
        {},
        {"data": (2, 3, 6, 6)},
        "makes data, label",
    ),
    "labels alone": (
        data("d", TRAIN, 8, 4, "data") + data("e", TEST, 6, 4),
        {"phase": "TRAIN"},
        {"data": (4, 3, 8, 8), "label": (4,)},
        "no layer of TRAIN makes label",
    ),
    "labels of another batch": (
        data("d", TRAIN, 8, 4, "data")
        + data("e", TEST, 6, 2).replace("'Data'", "'COMPACT_DATA'"),
        {"phase": "TRAIN"},
        {"data": (4, 3, 8, 8), "label": (4,)},
        "no layer of TRAIN makes label",
    ),
    "nothing lacks": (
        data("d", TRAIN, 8, 4) + data("e", TEST, 6, 2),
        {},
        {"data": (2, 3, 6, 6)},
        "",
    ),
    "in its stage": (
        data("v", VAL, 6, 2) + data("d", TRAIN, 8, 4),
        {"stages": ["val"]},
        {"data": (2, 3, 6, 6)},
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_inputs(name: str) -> None:
    sources, options, shapes, note = CASES[name]
    conversion = caffe2flax.convert(sources + NET, **options)
    graph = conversion.graph
    assert {v.blob: graph.shapes[v] for v in graph.arguments} == shapes
    about = [n for n in conversion.notes if "Caffe aborts" in n]
    assert len(about) == bool(note)
    assert all(note in n for n in about)


def test_it_runs() -> None:
    fed = np.ones((4, 3, 8, 8), np.float32)
    found = caffe2flax.run(data("d", TRAIN, 8, 4) + NET, None, {"data": fed})
    assert {blob: array.shape for blob, array in found.items()} == {"fc": (4, 3)}


REFUSED = {
    "made by no layer at all": (
        data("d", TRAIN, 8, 4, "image label"),
        "layer 'fc' reads blob 'data', which no layer makes",
    ),
    "made by a layer with bottoms": (
        data("d", "", 8, 4, "image label")
        + f"layer {{ name: 'r' type: 'ReLU' bottom: 'image' top: 'data' {TRAIN} }}",
        "layer 'fc' reads blob 'data', which layer 'r' (line 1) makes, but "
        "not here: give --phase TRAIN",
    ),
    "made too late": (
        NET + data("d", TRAIN, 8, 4),
        "layer 'fc' reads blob 'data', which no layer makes",
    ),
    "bad rules": (
        data("d", "include { phase: NOW }", 8, 4),
        "phase is TRAIN or TEST, not NOW",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    sources, message = REFUSED[name]
    text = sources if NET in sources else sources + NET
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(text)
    assert message in refused.value.problems[0].message


TRAIN_DATA = data("t", "include { stage: 'train' }", 6, 4)
VAL_DATA = data("v", "include { stage: 'val' }", 8, 2)
DIGITS = NET.replace("top: 'loss' }", "top: 'loss' exclude { stage: 'deploy' } }")
DIGITS += "layer { name: 'p' type: 'Softmax' bottom: 'fc' top: 'p' "
DIGITS += "include { stage: 'deploy' } }"


def test_all_stages_in_one_file() -> None:
    """Without a stage a note names them; with deploy the images are those of the tests,
    without their labels."""
    text = TRAIN_DATA + VAL_DATA + DIGITS
    conversion = caffe2flax.convert(text)
    assert conversion.graph.outputs[0].blob == "fc"
    said = "of which none is given: train, val, deploy; --stage deploy"
    assert any(said in note for note in conversion.notes)
    conversion = caffe2flax.convert(text, stages="deploy")
    assert "def __call__(self, data: Array) -> Array:" in conversion.source
    assert not any(said in note for note in conversion.notes)
    graph = conversion.graph
    assert [graph.shapes[v] for v in (*graph.arguments, *graph.outputs)] == [
        (2, 3, 8, 8),
        (2, 3),
    ]
    sized = caffe2flax.convert(
        text, stages="deploy", input_shapes={"data": (1, 1, 5, 5)}
    )
    assert any("cropped to 5 x 5" in note for note in sized.notes)
    assert not any("3 channels" in note for note in sized.notes)


def test_deploy_is_taken_to_verify() -> None:
    report = caffe2flax.verify(TRAIN_DATA + VAL_DATA + DIGITS, None)
    assert report.ok
    assert report.outputs.keys() == {"p"}


def test_a_shape_makes_an_input() -> None:
    """For a blob that no layer makes; without a shape the error says so."""
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(DIGITS, stages="deploy")
    assert "--input-shape data=N,... makes it an input" in str(refused.value)
    shapes = {"data": (2, 3, 4, 4), "label": (2,)}
    graph = caffe2flax.convert(
        DIGITS, stages="deploy", input_shapes={"data": (2, 3, 4, 4)}
    ).graph
    assert [v.blob for v in graph.arguments] == ["data"]
    graph = caffe2flax.convert(DIGITS, phase="TRAIN", input_shapes=shapes).graph
    assert {v.blob: graph.shapes[v] for v in graph.arguments} == shapes


COUNTED = {
    "InnerProduct": ("inner_product", "", ((5, 12), (5,)), 5),
    "InnerProduct, older": ("inner_product", "bias_term: false", ((1, 1, 5, 12),), 5),
    "InnerProduct, transposed": (
        "inner_product",
        "bias_term: false transpose: true",
        ((12, 5),),
        5,
    ),
    "Convolution": ("convolution", "kernel_size: 1", ((5, 3, 1, 1), (5,)), 5),
    "Deconvolution": (
        "convolution",
        "kernel_size: 1 group: 3 bias_term: false",
        ((3, 2, 1, 1),),
        6,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_outputs_are_counted_in_the_weights(name: str, tmp_path: Path) -> None:
    """Where a file leaves num_output out; a note says so."""
    message, given, shapes, count = COUNTED[name]
    net = single(name.partition(",")[0], f"{message}_param {{ {given} }}", (1, 3, 2, 2))
    weights = weights_file(tmp_path / "w", {"l": [normal(*shape) for shape in shapes]})
    conversion = caffe2flax.convert(net, weights)
    assert conversion.graph.shapes[conversion.graph.outputs[0]][1] == count
    assert any(f"the weights have {count}" in note for note in conversion.notes)
    with pytest.raises(caffe2flax.ConversionError, match="needs num_output"):
        caffe2flax.convert(net)
