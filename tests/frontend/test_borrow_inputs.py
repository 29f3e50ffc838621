"""Inputs that a net lacks in a phase, taken from the data layers of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import caffe2flax

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
