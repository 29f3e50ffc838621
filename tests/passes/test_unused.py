"""Nets written for training, converted in TEST."""

from __future__ import annotations

import pytest

import caffe2flax
from caffe2flax import Conversion

DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        data_param { source: "a" batch_size: 2 } transform_param { crop_size: 8 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        data_param { source: "b" batch_size: 2 } transform_param { crop_size: 8 } }
"""
INPUT = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
"""


def fc(name: str, bottom: str, features: int = 4) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" '
        f'top: "{name}" inner_product_param {{ num_output: {features} }} }}\n'
    )


def layer(name: str, type_: str, bottoms: str, tops: str | None = None) -> str:
    """A layer with blank-separated bottoms and tops; its name is its top."""
    lines = [f'bottom: "{blob}"' for blob in bottoms.split()]
    lines += [f'top: "{blob}"' for blob in (name if tops is None else tops).split()]
    return f'layer {{ name: "{name}" type: "{type_}" {" ".join(lines)} }}\n'


LOSS = layer("loss", "SoftmaxWithLoss", "fc label")
ACCURACY = layer("accuracy", "Accuracy", "fc label")
SMOOTH = layer("smooth", "EuclideanLoss", "fc same")
EMBED = """
layer { name: "other" type: "Embed" bottom: "label" top: "other"
        embed_param { num_output: 2 input_dim: 4 } }
"""
NETS = {
    # name: net, inputs, outputs, dropped
    "loss": (DATA + fc("fc", "data") + LOSS, "data", "fc", "loss"),
    "loss and accuracy": (
        DATA + fc("fc", "data") + ACCURACY + LOSS,
        "data",
        "fc",
        "accuracy loss",
    ),
    "no top": (
        DATA + fc("fc", "data") + layer("l", "SoftmaxWithLoss", "fc label", ""),
        "data",
        "fc",
        "l",
    ),
    "with softmax": (
        DATA + fc("fc", "data") + LOSS + layer("prob", "Softmax", "fc"),
        "data",
        "prob",
        "loss",
    ),
    "two heads": (
        DATA
        + fc("h", "data")
        + fc("a", "h")
        + fc("fc", "h")
        + layer("loss_a", "SoftmaxWithLoss", "a label")
        + LOSS,
        "data",
        "a fc",
        "loss_a loss",
    ),
    "sum of losses": (
        DATA
        + fc("fc", "data")
        + LOSS
        + layer("hinge", "HingeLoss", "fc label")
        + layer("total", "Eltwise", "loss hinge")
        + layer("half", "Power", "total"),
        "data",
        "fc",
        "loss hinge total half",
    ),
    "sum with a part that stays": (
        DATA
        + fc("fc", "data")
        + fc("same", "data")
        + LOSS
        + SMOOTH
        + layer("total", "Eltwise", "loss smooth"),
        "data",
        "smooth",
        "loss total",
    ),
    "reshaped labels": (
        DATA
        + fc("fc", "data")
        + layer("flat", "Power", "label")
        + layer("loss", "SoftmaxWithLoss", "fc flat"),
        "data",
        "fc",
        "loss flat",
    ),
    "autoencoder": (
        DATA
        + layer("flat", "Flatten", "data")
        + fc("code", "flat")
        + fc("back", "code", 192)
        + layer("error", "EuclideanLoss", "back flat")
        + layer("quiet", "Silence", "label", ""),
        "data",
        "error",
        "quiet",
    ),
    "labels with weights": (
        DATA + fc("fc", "data") + EMBED + LOSS,
        "data label",
        "loss other",
        "",
    ),
    "labels given": (INPUT + fc("fc", "data") + LOSS, "data label", "loss", ""),
    "unread labels": (DATA + fc("fc", "data"), "data", "fc", ""),
    "unread input": (INPUT + fc("fc", "data"), "data", "fc", ""),
    "silenced input": (
        INPUT + fc("fc", "data") + layer("quiet", "Silence", "label", ""),
        "data",
        "fc",
        "quiet",
    ),
    "inputs alone": (INPUT, "data label", "data label", ""),
    "in place": (
        DATA + fc("fc", "data") + layer("relu", "ReLU", "fc", "fc") + LOSS,
        "data",
        "fc",
        "loss",
    ),
}


def convert(text: str, **options: object) -> Conversion:
    shapes = {"data": (2, 3, 8, 8)}
    if 'Data"' not in text:
        shapes = {}
    return caffe2flax.convert(text, input_shapes=shapes, **options)


@pytest.mark.parametrize("name", NETS)
def test_at_test(name: str) -> None:
    text, inputs, outputs, dropped = NETS[name]
    graph = convert(text).graph
    assert [value.blob for value in graph.arguments] == inputs.split()
    assert sorted(v.blob for v in graph.outputs) == sorted(outputs.split())
    assert sorted(d.name for d in graph.remarks.dropped) == sorted(dropped.split())
    assert all(d.reason and d.span.line for d in graph.remarks.dropped)


@pytest.mark.parametrize("name", NETS)
def test_in_training(name: str) -> None:
    """Nothing but Silence is left out, and every loss is an output."""
    text = NETS[name][0]
    graph = convert(text, phase="TRAIN").graph
    assert all(d.type == "Silence" for d in graph.remarks.dropped)
    losses = {value for node in graph.nodes for value, _ in node.weighted}
    assert losses <= set(graph.outputs)


@pytest.mark.parametrize("tap", ["loss", "total", "half", "fc"])
def test_taps(tap: str) -> None:
    """What a tap depends on stays, even if it needs labels."""
    graph = convert(NETS["sum of losses"][0], taps=[tap]).graph
    made = {value.blob for node in graph.nodes for value in node.outputs}
    assert tap in made
    assert ("loss" in made) == (tap != "fc")
    assert ("label" in {value.blob for value in graph.arguments}) == (tap != "fc")
