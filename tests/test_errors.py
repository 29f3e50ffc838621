"""What is wrong with an input is said at once, with its place, and nothing is
written."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe2flax
from caffe2flax.cli.main import main
from tests import wireformat
from tests.golden import FIXTURES

DIGITS = FIXTURES / "digits"
NET = """name: "tiny"
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 }
}
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 2 } }
"""


def edited(*changes: tuple[str, str]) -> str:
    text = NET
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


BAD = {
    "typo in a field": (
        edited(("kernel_size", "kernel_sise")),
        [
            "8:37: error: unknown field kernel_sise in convolution_param; did you mean "
            "kernel_size?",
        ],
    ),
    "typo in a layer's field": (
        edited(('bottom: "data"', 'botom: "data"')),
        [
            "7:36: error: unknown field botom in layer; did you mean bottom?",
        ],
    ),
    "wrong parameter message": (
        edited(("convolution_param", "convolution_parm")),
        ["8:3: error: unknown field convolution_parm in layer; did you mean"],
    ),
    "unknown type": (
        edited(("Convolution", "Convolutoin")),
        [
            "7:16: error: layer type Convolutoin is not supported; did you mean "
            "Convolution?"
        ],
    ),
    "all unknown types, each once": (
        edited(("Convolution", "Foo"), ("InnerProduct", "Bar"))
        + "layer { type: 'Foo' bottom: 'fc' top: 'foo' }",
        [
            "7:16: error: layer type Foo is not supported (2 layers)",
            "10:20: error: layer type Bar is not supported",
        ],
    ),
    "missing bottom": (
        edited(('bottom: "conv"', 'bottom: "cnv"')),
        [
            "10:41: error: layer 'fc' reads blob 'cnv', which no layer makes; did you "
            "mean conv?"
        ],
    ),
    "several problems": (
        edited(("num_output: 4", "num_output: 4.5 num: 1"), ("num_output: 2", "")),
        [
            "8:23: error: num_output is an integer, not 4.5",
            "8:39: error: unknown field num in convolution_param",
            "11:23: error: inner_product_param needs num_output",
        ],
    ),
    "sizes that do not fit": (
        edited(("kernel_size: 3", "kernel_size: 10")),
        ["6:7: error: layer 'conv':"],
    ),
    "syntax": (edited(('"InnerProduct"', '"InnerProduct')), ["10:"]),
    "empty": ("# nothing\n", ["error: the file holds no layers"]),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_prototxt(
    text: str,
    expected: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compiler style on stderr, status 1, every problem of the file, no output file."""
    net, out = tmp_path / "net.prototxt", tmp_path / "out"
    net.write_text(text)
    assert main(["convert", str(net), "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    for line in expected:
        assert line in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()


def model(*blobs: bytes, name: str = "conv", type_: str = "Convolution") -> bytes:
    return wireformat.layer(*blobs, name=name, type=type_)


def blob(*shape: int) -> bytes:
    count = 1
    for extent in shape:
        count *= extent
    return wireformat.dims(*shape) + wireformat.chunk(
        5, wireformat.floats(*[0.5] * count)
    )


TRUNCATED = (DIGITS / "digits_lenet.caffemodel").read_bytes()[:-1000]
BAD_WEIGHTS = {
    "wrong shape": (
        model(blob(4, 3, 5, 5), blob(4)),
        "layer 'conv' at byte 0: blob 0 has shape (4, 3, 5, 5), the net's (4, 3, 3, 3)",
    ),
    "all wrong shapes": (
        model(blob(4, 3, 3, 3), blob(5))
        + model(blob(3, 144), blob(3), name="fc", type_="InnerProduct"),
        "blob 0 has shape (3, 144), the net's (2, 144)",
    ),
    "wrong count": (
        model(blob(4, 3, 3, 3)),
        "layer 'conv' at byte 0 has 1 blobs, the net's has 2",
    ),
    "truncated": (TRUNCATED, "at byte"),
    "text": (NET.encode(), "prototxt"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize(("data", "expected"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights(
    data: bytes,
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net, weights, out = (tmp_path / n for n in ("n.prototxt", "n.caffemodel", "out"))
    net.write_text(NET)
    weights.write_bytes(data)
    assert main(["convert", str(net), str(weights), "-o", str(out)]) == 1
    printed = capsys.readouterr().err
    assert expected in printed
    assert f"{weights}: error:" in printed
    assert not out.exists()


def test_places() -> None:
    """`problems` carries what the command line prints."""
    with pytest.raises(caffe2flax.ConversionError) as caught:
        caffe2flax.convert(edited(("kernel_size", "kernel_sise")))
    found = {(p.line, p.column) for p in caught.value.problems}
    assert found == {(8, 37)}
    assert {p.file for p in caught.value.problems} == {"<prototxt>"}


def test_caller_is_checked_too() -> None:
    """Shapes and taps that name nothing."""
    with pytest.raises(caffe2flax.ConversionError, match="did you mean data"):
        caffe2flax.convert(NET, input_shapes={"dat": (1, 3, 8, 8)})
    with pytest.raises(caffe2flax.ConversionError, match="no blob is called 'con'"):
        caffe2flax.convert(NET, taps=["con"])


def test_weights_without_a_net(tmp_path: Path) -> None:
    """A file that holds blobs alone says what is missing, once."""
    path = tmp_path / "w.caffemodel"
    path.write_bytes(model(blob(4, 3, 3, 3), blob(4)))
    with pytest.raises(
        caffe2flax.ConversionError, match="weights but no net"
    ) as caught:
        caffe2flax.convert(path)
    assert len(caught.value.problems) == 1


def with_layer(type_: str, text: str = "", bottom: str = "data") -> str:
    return NET + f"layer {{ type: '{type_}' bottom: '{bottom}' top: 'x' {text} }}"


KINDS = {
    "broken": (
        edited(("kernel_size", "kernel_sise")),
        edited(('bottom: "data"', 'botom: "data"')),
        edited(("Convolution", "Convolutoin")),
        edited(("Convolution", "convolution")),
        edited(('bottom: "conv"', 'bottom: "cnv"')),
        edited(("num_output: 4", "num_output: 4.5")),
        edited(("num_output: 4", "")),
        edited(("kernel_size: 3", "kernel_size: 10")),
        edited(('"InnerProduct"', '"InnerProduct')),
        edited(("dim: 1", "dim: $BATCH$")),
        "# nothing\n",
        NET + NET.partition("\n")[2],
        with_layer("Softmax", "softmax_param { axis: 7 }"),
        with_layer("Pooling", "pooling_param { kernel_size: 2 pad: 2 }"),
        "layer { type: 'ReLU' bottom: 'h' top: 'x' }"
        "layer { type: 'ReLU' top: 'h' include { stage: 'go' } }",
    ),
    "ambiguous": (
        with_layer("BN"),
        with_layer("DepthwiseConvolution", "convolution_param { num_output: 3 }"),
        "layer { name: 'in' type: 'Input' top: 'data' }"
        "layer { type: 'ReLU' bottom: 'data' top: 'x' }",
        "layer { type: 'HDF5Data' top: 'data' hdf5_data_param { batch_size: 2 } }"
        "layer { type: 'Crop' bottom: 'data' bottom: 'data' top: 'x' }"
        "layer { type: 'Reshape' bottom: 'data' top: 'y' "
        "reshape_param { shape { dim: 2 dim: 7 } } }",
        "net: 'train_val.prototxt'\nbase_lr: 0.1",
    ),
    "unsupported": (
        with_layer("Whirl"),
        with_layer("Convolution7"),
        with_layer("FixedNeuron"),
        with_layer("DeformableConvolution"),
        with_layer("Python", "python_param { module: 'm' layer: 'Draw' }"),
        with_layer("ReLU", "relu_param { leakiness: 2 }"),
        with_layer("ReLU", "whirl_param { strength: 2 }"),
        with_layer("DenseBlock", "phase: TRAIN"),
    ),
}


@pytest.mark.parametrize(
    ("kind", "text"),
    [(kind, text) for kind, texts in KINDS.items() for text in texts],
)
def test_every_refusal_says_what_kind_it_is(kind: str, text: str) -> None:
    """In that word, as an attribute, and in JSON."""
    with pytest.raises(caffe2flax.ConversionError) as caught:
        caffe2flax.convert(text)
    problems = caught.value.problems
    assert kind in {problem.kind for problem in problems}
    assert None not in {problem.kind for problem in problems}
    assert f" [{kind}]" in str(caught.value)
    assert kind in [problem.to_dict()["kind"] for problem in problems]


def test_what_the_caller_got_wrong_is_not_the_files_fault() -> None:
    for options in ({"taps": "con"}, {"input_shapes": {"dat": (1,)}}, {"until": "x"}):
        with pytest.raises(caffe2flax.ConversionError) as caught:
            caffe2flax.convert(NET, **options)  # type: ignore[arg-type]
        assert [problem.kind for problem in caught.value.problems] == [None]


def test_limits_are_no_fault_of_the_file() -> None:
    with (
        caffe2flax.limited(fields=3),
        pytest.raises(caffe2flax.ConversionError) as caught,
    ):
        caffe2flax.convert(NET)
    assert [problem.kind for problem in caught.value.problems] == ["unsupported"]
