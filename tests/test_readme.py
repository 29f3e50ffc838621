"""What the README shows is what the converter does."""

from pathlib import Path

import pytest

import caffe2flax
from caffe2flax.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WEIGHTS = ROOT / "fixtures" / "digits" / "digits_lenet.caffemodel"

FAULTY = """\
name: "Faulty"
input: "data"
input_shape { dim: 1 dim: 3 dim: 227 dim: 227 }
layer {
  name: "norm1"
  type: "LRN"
  bottom: "data"
  top: "norm1"
  lrn_param { locale_size: 5 }
}
layer {
  name: "conv1"
  type: "Convolutoin"
  bottom: "norm2"
  top: "conv1"
}
"""


def blocks(part: str) -> list[str]:
    """The code blocks between the markers of a part."""
    text = README.partition(f"<!-- {part}:begin -->")[2]
    text = text.partition(f"<!-- {part}:end -->")[0]
    return [block.partition("\n")[2] for block in text.split("```")[1::2]]


def test_the_example_is_what_comes_out() -> None:
    prototxt, module = blocks("example")
    assert len(prototxt.splitlines()) == 12
    conversion = caffe2flax.convert(prototxt, WEIGHTS, name="DigitsLeNet")
    assert module in conversion.source


def test_the_errors_are_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (printed,) = blocks("errors")
    monkeypatch.chdir(tmp_path)
    Path("deploy.prototxt").write_text(FAULTY)
    assert main(["convert", "deploy.prototxt"]) == 1
    assert capsys.readouterr().err == printed
