"""What objects show of themselves: a line of text, and HTML for notebooks."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import caffe2flax
from tests.golden import FIXTURES
from tests.smallnets import net

DIGITS = FIXTURES / "digits"
FILES = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
EMPTY = {"br", "hr", "img", "input", "meta"}
DOT = shutil.which("dot") is not None


class Reader(HTMLParser):
    """The text and the tags of HTML; every tag that is opened is closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_conversion() -> None:
    done = caffe2flax.convert(*FILES)
    assert repr(done) == (
        "Conversion(DigitsLeNet: data (N, 28, 28, 1) -> prob (N, 10), 12 layers, "
        "39,994 parameters, with weights)"
    )
    shown = Reader(done._repr_html_())
    for part in ("data (N, 28, 28, 1)", "self.conv1 = conv(1, 8, (5, 5)"):
        assert part in shown.text
    assert ("svg" in shown.tags) is DOT


def test_inspection() -> None:
    done = caffe2flax.inspect(FILES[0])
    assert repr(done) == (
        "Inspection(DigitsLeNet, TEST: 12 layers, 39,994 parameters, "
        "383,712 multiply-adds)"
    )
    text = Reader(done._repr_html_()).text
    assert "conv2" in text
    assert "39,994" in text
    stored = caffe2flax.inspect(FILES[1])
    assert "39,994 parameters" in repr(stored)
    assert "conv1" in Reader(stored._repr_html_()).text


def test_report() -> None:
    done = caffe2flax.verify(*FILES)
    assert repr(done).startswith("Report(DigitsLeNet against reference: ok, 12 layers,")
    shown = Reader(done._repr_html_())
    assert "tolerance 0.0001" in shown.text
    assert "conv2" in shown.text
    assert ("svg" in shown.tags) is DOT


HOSTILE = "<script>alert(1)</script>\\x1b[31m"


def test_names_are_text() -> None:
    """Names of a file are no tags, and no control characters."""
    layer = f'name: "{HOSTILE}" type: "InnerProduct" bottom: "x" top: "{HOSTILE}" '
    text = net(layer + "inner_product_param { num_output: 3 }", x=(1, 4))
    for shown in (
        caffe2flax.convert(text)._repr_html_(),
        caffe2flax.inspect(text)._repr_html_(),
        caffe2flax.verify(text)._repr_html_(),
        caffe2flax.draw(text)._repr_svg_() or "",
    ):
        assert "<script" not in shown
        assert "\x1b" not in shown
        Reader(shown)


def test_draw(tmp_path: Path) -> None:
    pytest.importorskip("graphviz")
    drawing = caffe2flax.draw(FILES[0], tmp_path / "net.dot")
    assert repr(drawing) == "Drawing(DigitsLeNet: 12 layers, 0 repeated blocks)"
    assert b"conv1" in (tmp_path / "net.dot").read_bytes()
    with pytest.raises(FileExistsError):
        caffe2flax.draw(FILES[0], tmp_path / "net.dot")
    with pytest.raises(caffe2flax.ConversionError, match="none of the formats"):
        drawing.write(tmp_path / "net.bmp")


def test_upgrade(tmp_path: Path) -> None:
    folder = FIXTURES / "upgrade"
    old = folder / "v1_misc.prototxt"
    text = caffe2flax.upgrade(old, tmp_path / "new.prototxt")
    assert "layers {" not in text
    assert (tmp_path / "new.prototxt").read_text() == text
    assert caffe2flax.upgrade(text) == text
    assert caffe2flax.upgrade(old.read_text()) == text
    with pytest.raises(FileExistsError):
        caffe2flax.upgrade(old, tmp_path / "new.prototxt")


def test_predict(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "c.png").write_text("none")
    names = [f"digit {i}" for i in range(10)]
    done = caffe2flax.predict(
        *FILES, tmp_path, top=2, labels=names, scale=1 / 255, mean=0
    )
    assert repr(done) == "Predictions(classes by prob, 2 images)"
    assert [len(problem.message) > 0 for problem in done.problems] == [True]
    assert len(done.rows) == 4
    x = pixels[None, None] / np.float32(255)
    prob = caffe2flax.run(*FILES, {"data": x})["prob"][0]
    best = done.rows[0]
    assert best["class"] == prob.argmax()
    assert best["score"] == pytest.approx(prob.max(), rel=1e-5)
    assert best["label"] == f"digit {prob.argmax()}"
    assert "digit" in Reader(done._repr_html_()).text
    with pytest.raises(TypeError, match="there is no option"):
        caffe2flax.predict(*FILES, tmp_path, treshold=1)
    with pytest.raises(caffe2flax.ConversionError, match="not drawn"):
        caffe2flax.predict(*FILES, tmp_path, output=tmp_path)
