"""What the README shows is what the converter does."""

from pathlib import Path

import pytest

from caffe2flax.cli.main import main
from tests.readme import (
    README,
    code_blocks,
    dialect_table,
    example,
    layer_table,
    part,
    plugin,
)

TEXT = README.read_text(encoding="utf-8")

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


def test_the_example_is_what_comes_out() -> None:
    prototxt, module = code_blocks(part(TEXT, "example"))
    assert len(prototxt.splitlines()) == 12
    assert module == example(prototxt)


def test_the_layers_are_those_registered() -> None:
    assert part(TEXT, "layers") == layer_table()


def test_the_meanings_and_the_plugin_are_those_that_work() -> None:
    assert part(TEXT, "dialects") == dialect_table()
    assert part(TEXT, "plugin") == plugin()


def test_the_errors_are_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (printed,) = code_blocks(part(TEXT, "errors"))
    monkeypatch.chdir(tmp_path)
    Path("deploy.prototxt").write_text(FAULTY)
    assert main(["convert", "deploy.prototxt"]) == 1
    assert capsys.readouterr().err == printed
