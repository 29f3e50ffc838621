"""Upgraded prototxts as text: what is said, what stays as it was, where comments go."""

from __future__ import annotations

import re
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.frontend.prototxt import parse
from caffe2flax.frontend.upgrade import upgrade
from caffe2flax.frontend.upgrade.rewrite import upgraded_text
from tests.golden import FIXTURES, Case, cases

FORMATS = [case for case in cases("layers") if case.facts["type"] == "format"]
OLD = [case for case in FORMATS if "error" not in case.facts]


@pytest.mark.parametrize("case", OLD, ids=[case.name for case in OLD])
def test_old_nets(case: Case, tmp_path: Path) -> None:
    """By way of the new text they become the same module, with the same numbers."""
    prototxt, weights, options = case.prototxt, case.weights, case.options
    new = tmp_path / prototxt.name
    new.write_text(upgraded_text(prototxt.read_text()))
    assert "layers" not in new.read_text()
    assert "input_dim:" not in new.read_text()
    direct = caffe2flax.convert(prototxt, weights, **options)
    converted = caffe2flax.convert(new, weights, **options)
    assert converted.source == direct.source
    assert direct.weights is not None
    assert converted.weights is not None
    assert converted.weights.keys() == direct.weights.keys()
    for name, array in direct.weights.items():
        assert np.array_equal(converted.weights[name], array)


CURRENT = sorted(
    path
    for path in FIXTURES.glob("**/*.prototxt")
    if path.stem not in {case.name for case in FORMATS}
    and not path.is_relative_to(FIXTURES / "upgrade")
)


def test_current_nets_stay_as_they_are() -> None:
    same = 0
    for path in CURRENT:
        text = path.read_bytes().decode()
        if "input:" in text or "layers" in text:
            continue
        try:
            assert upgraded_text(text) == text, path
        except caffe2flax.ConversionError:
            continue
        same += 1
    assert same > 250


HEADER = """\
# An old net,
# in two lines.

name: 'Old'   # its name
input: "data"   # images
# four sizes
input_dim: 1
input_dim: 3
input_dim: 8 # height
input_dim: 8
"""
LAYERS = """\

# --- first ---
layers {   # conv
  name: "conv1"
  type: CONVOLUTION   # sliding
  # blobs
  bottom: "data"; top: "conv1"
  blobs_lr: 1  # weight
  blobs_lr: 2
  convolution_param {
    # how many
    num_output: 0x4
    kernel_size: 3   weight_filler < type: 'xavier' >  # init
  }
  # the end of conv1
}


layers { name: "r" type: RELU bottom: "conv1" top: "conv1" } # in place
# nothing follows
"""
EXPECTED = """\
# An old net,
# in two lines.

name: 'Old'  # its name
layer {
  name: "input"
  type: "Input"
  top: "data"  # images
  # four sizes
  input_param {
    shape {
      dim: 1
      dim: 3
      dim: 8  # height
      dim: 8
    }
  }
}

# --- first ---
layer {  # conv
  name: "conv1"
  type: "Convolution"  # sliding
  # blobs
  bottom: "data"
  top: "conv1"
  convolution_param {
    # how many
    num_output: 0x4
    kernel_size: 3   weight_filler < type: 'xavier' >  # init
  }
  param {
    lr_mult: 1  # weight
  }
  param { lr_mult: 2 }
  # the end of conv1
}

layer { name: "r" type: "ReLU" bottom: "conv1" top: "conv1" }  # in place
# nothing follows
"""


def test_comments_and_order() -> None:
    assert upgraded_text(HEADER + LAYERS) == EXPECTED


TEXTS = {
    "what is current is copied": (
        "input: 'x' input_shape { dim: 2 }\n"
        "layer{name:'a',type:'ReLU'  bottom:'x' # in\n   top:'a'}\n",
        'layer { name: "input" type: "Input" top: "x" '
        "input_param { shape { dim: 2 } } }\n"
        "layer{name:'a',type:'ReLU'  bottom:'x' # in\n   top:'a'}\n",
    ),
    "line ends": (
        "layers {\r\n  type: RELU # r\r\n}\r\n",
        'layer {\r\n  type: "ReLU"  # r\r\n}\r\n',
    ),
    "comments of what is gone": (
        "layers {\n  # padding\n  layer { type: 'padding' name: 'p' pad: 2 }\n"
        "  bottom: 'x' top: 'p'\n}\n"
        "layers {\n  layer { type: 'conv' name: 'c' # conv\n num_output: 2 }\n"
        "  bottom: 'p' top: 'c'\n}\n",
        "# padding\n"
        "layer {\n  name: 'c'  # conv\n  type: \"Convolution\"\n  bottom: 'x'\n"
        "  top: 'c'\n  convolution_param { num_output: 2 pad: 2 }\n}\n",
    ),
    "moved deeper": (
        "layers {\n  layer {\n    type: 'conv'\n    weight_filler {\n"
        "      type: 'xavier' # x\n    }\n  }\n}\n",
        'layer {\n  type: "Convolution"\n  convolution_param {\n    weight_filler {\n'
        "      type: 'xavier' # x\n    }\n  }\n}\n",
    ),
    "strings keep their bytes": (
        "layers { name: 'a\\n\\\"b\\001\\\\' 'c' type: RELU top: 'é' }",
        'layer { name: "a\\n\\"b\\001\\\\c" type: "ReLU" top: "é" }\n',
    ),
    "a solver's net": (
        "base_lr: 0.1 # slow\nnet_param {\n  layers { type: RELU name: 'r' }\n}\n",
        'base_lr: 0.1  # slow\nnet_param {\n  layer { type: "ReLU" name: "r" }\n}\n',
    ),
    "lists": (
        "input: 'x' input_dim: [1, 2, 3, 4]\n",
        'layer {\n  name: "input"\n  type: "Input"\n  top: "x"\n'
        "  input_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 } }\n}\n",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    old, new = TEXTS[name]
    assert upgraded_text(old) == new
    assert upgraded_text(new) == new


NOISE = st.sampled_from(["", " ", "\n", "\n\n", " # one\n", "\n# two\n\n  # three\n"])
PIECES = (
    "input: 'x'", "input_dim: [1, 2,", "3, 4]", "layers {", "name: 'a'",
    "type: INNER_PRODUCT", "bottom: 'x'", "top: 'a'", "inner_product_param {",
    "num_output: 3", "weight_filler <", "type: 'xavier'", ">", "}", "blobs_lr: 1",
    "blobs_lr: 2", "}", "layers {", "type: RELU", "}",
)  # fmt: skip


@given(st.lists(NOISE, min_size=len(PIECES) + 1, max_size=len(PIECES) + 1))
def test_no_comment_is_lost(noise: list[str]) -> None:
    """Wherever comments stand, all are kept, and the net is the upgraded one."""
    pairs = zip(noise, (*PIECES, ""), strict=True)
    text = "".join(f"{gap} {piece}" for gap, piece in pairs)
    written = upgraded_text(text)
    assert parse(written) == upgrade(parse(text))
    for word in ("# one", "# two", "# three"):
        assert written.count(word) == text.count(word)


LAYER = "layers { type: RELU bottom: 'x' top: 'x' relu_param { } } "


@pytest.mark.parametrize("unit", [LAYER, f"{LAYER}# c\n", f"# c\n# d\n{LAYER}\n"])
def test_time_is_linear(unit: str) -> None:
    """Many layers on one line, or on many lines with comments."""

    def seconds(count: int) -> float:
        start = process_time()
        upgraded_text(unit * count)
        return process_time() - start

    seconds(10)
    # 16 times the text: 256 times as long if time were quadratic.
    assert seconds(1600) < 100 * seconds(100)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.prototxt", tmp_path / "sub" / "new.prototxt"
    old.write_text(HEADER + LAYERS)
    assert main(["upgrade", str(old)]) == 0
    assert capsys.readouterr().out == EXPECTED
    assert main(["upgrade", str(old), "-o", str(new)]) == 0
    assert capsys.readouterr().out == f"{new}\n"
    assert new.read_text() == EXPECTED
    assert main(["upgrade", str(old), "-o", str(new)]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["upgrade", str(old), "-o", str(new), "--force"]) == 0
    old.write_text("layers { type: CONVOLUTE }\nlayer { }")
    assert main(["upgrade", str(old)]) == 1
    assert f"{old}:2:1: error: " in capsys.readouterr().err


SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@pytest.mark.parametrize(("number", "type_"), list(enumerate(SOLVER_TYPES)))
def test_solver_type(number: int, type_: str) -> None:
    """The enum that Caffe had, by word and by number."""
    new = f'net: "n.prototxt"  # mine\n# why\ntype: "{type_}"  # fast\nbase_lr: 1\n'
    for old in (type_.upper(), number, hex(number)):
        text = new.replace(f'type: "{type_}"', f"solver_type: {old}")
        assert upgraded_text(text) == new
    assert upgraded_text(new) == new


BAD_SOLVERS = {
    'solver_type: ADAM type: "SGD"': "give type or solver_type",
    "solver_type: SGD solver_type: SGD": "solver_type is given twice",
    "solver_type: ADM": "not ADM; did you mean ADAM?",
    'solver_type: "ADAM"': "not 'ADAM'; leave out the quotes",
    "solver_type: 6": "solver_type is one of SGD, NESTEROV,",
    "solver_type: -1": "solver_type is one of SGD, NESTEROV,",
    "solver_type { }": "not a message",
}


@pytest.mark.parametrize(("text", "message"), BAD_SOLVERS.items())
def test_bad_solver_types(text: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=re.escape(message)) as refused:
        upgraded_text(f'net: "n.prototxt"\n{text}\n')
    assert refused.value.problems[0].line == 2
