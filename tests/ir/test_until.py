"""Nets up to a blob, and the blobs that errors offer for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main

HEAD = """
name: "cut" input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""
FC = """
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""
DRAWN = """
layer { name: "draw" type: "Python" bottom: "fc" bottom: "data" top: "drawn"
  python_param { module: "vis" layer: "Draw" } }
layer { name: "prob" type: "Softmax" bottom: "drawn" top: "prob" }
"""
SIDE = """
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { kernel_size: 2 } }
"""
LABEL = """
layer { name: "twice" type: "Power" bottom: "data" top: "twice" }
layer { name: "what" type: "Whirl" bottom: "fc" bottom: "twice" top: "what" }
"""


def test_nothing_behind_is_there_or_has_to_be_right() -> None:
    wrong = "layer { name: 'x' type: 'Convolution' bottom: 'fc' top: 'x' }"
    found = caffe2flax.convert(HEAD + FC + DRAWN + wrong, until="conv")
    assert [node.name for node in found.graph.nodes] == ["conv", "relu"]
    assert [value.blob for value in found.graph.outputs] == ["conv"]


def test_values_are_those_of_the_whole_net() -> None:
    """Of several blobs, too, one of which the other is computed by; in the last version
    of a blob that a layer changes in place."""
    x = {"data": np.random.default_rng(0).normal(size=(1, 3, 8, 8))}
    text = HEAD + FC + SIDE
    whole = caffe2flax.run(text, None, x, blobs="all")
    cut = caffe2flax.run(text, None, x, until=["fc", "conv"])
    assert cut.keys() == {"fc", "conv"}
    for blob, array in cut.items():
        np.testing.assert_array_equal(array, whole[blob])


def test_images_of_any_size_before_the_inner_products() -> None:
    assert "8, 8" in caffe2flax.convert(HEAD + FC).source
    assert '"H", "W", 3' in caffe2flax.convert(HEAD + FC, until="conv").source


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [
        (HEAD, "cnv", "the net is to end at 'cnv', which no layer makes; did you mean"),
        (
            HEAD + "layer { name: 'r' type: 'ReLU' bottom: 'conv' top: 'h' "
            "include { stage: 'go' } }",
            "h",
            "makes, but not here: give --stage go",
        ),
        (
            "layer { name: 'd' type: 'Data' top: 'x' top: 'y' "
            "data_param { batch_size: 1 } transform_param { crop_size: 4 } }"
            "layer { name: 'fc' type: 'InnerProduct' bottom: 'x' top: 'fc' "
            "inner_product_param { num_output: 2 } }"
            "layer { name: 'l' type: 'SoftmaxWithLoss' bottom: 'fc' bottom: 'y' "
            "top: 'l' }",
            "l",
            "not computed in TEST: its labels come from a data layer",
        ),
    ],
)
def test_blobs_at_which_no_net_ends(text: str, until: str, expected: str) -> None:
    with pytest.raises(caffe2flax.ConversionError) as caught:
        caffe2flax.convert(text, until=until)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        (HEAD + FC + DRAWN, "--until fc leaves"),
        (HEAD + SIDE + FC + DRAWN, "--until pool --until fc leaves"),
        (HEAD + FC + LABEL, "--until fc leaves"),
        # what FancyLoss is left out for is no end
        (
            HEAD
            + FC
            + DRAWN
            + "layer { name: 'l' type: 'Python' bottom: 'fc' bottom: 'data' top: 'l' "
            "python_param { module: 'm' layer: 'FancyLoss' } }",
            "--until fc leaves",
        ),
        # of a type that is unknown twice
        (
            HEAD
            + FC
            + "layer { name: 'a' type: 'Whirl' bottom: 'conv' top: 'a' }"
            + "layer { name: 'b' type: 'Whirl' bottom: 'fc' top: 'b' }",
            "--until fc leaves",
        ),
        (HEAD + DRAWN.replace('"fc"', '"data"'), "--until conv leaves"),
        # what is in front of all layers with weights can be filled in only
        (HEAD.replace('"Convolution"', '"Whirl"'), ""),
        # another problem, which stays
        (HEAD + FC + DRAWN + HEAD.replace("3", "x").partition("\n")[2], ""),
    ],
)
def test_errors_offer_the_end(text: str, offered: str) -> None:
    """Where unsupported layers at the end are all that is wrong; the offer is true."""
    with pytest.raises(caffe2flax.ConversionError) as caught:
        caffe2flax.convert(text)
    advice = "\n".join(caught.value.advice)
    assert ("--until" in advice) == bool(offered)
    assert offered in advice
    if offered:
        words = offered.split()
        caffe2flax.convert(text, until=words[1:-1:2])


def test_the_commands_take_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(HEAD + FC + DRAWN)
    assert main(["inspect", str(net)]) == 1
    assert (
        "\nhelp: --until fc leaves out what is unsupported\n" in capsys.readouterr().err
    )
    assert main(["inspect", str(net), "--until", "fc"]) == 0
    assert "output fc" in capsys.readouterr().out


def test_stubs_name_the_class_and_the_shapes() -> None:
    found = caffe2flax.convert(HEAD + FC + DRAWN, stub_unsupported=True)
    assert '"""vis.Draw, which is to be filled in.' in found.source
    assert "Shapes, in Caffe's axis order: (1, 2), (1, 3, 8, 8) ->" in found.source
    assert any("vis.Draw is unsupported" in note for note in found.notes)
