"""Without the packages of the extras: what does not need them works, the rest says
which extra brings them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from caffe2flax.cli.main import main

DIGITS = Path(__file__).parents[2] / "fixtures" / "digits"
NET = [str(DIGITS / "deploy.prototxt"), str(DIGITS / "digits_lenet.caffemodel")]


@pytest.fixture(autouse=True)
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIL", "graphviz", "h5py", "onnx", "onnxruntime", "ruff"):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)


def test_what_needs_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", data=np.ones((1, 1, 28, 28), np.float32))
    outputs = [
        "--inputs",
        str(tmp_path / "in.npz"),
        "--outputs",
        str(tmp_path / "o.npz"),
    ]
    assert main(["convert", *NET, "-o", str(tmp_path)]) == 0
    assert main(["run", *NET, *outputs]) == 0
    assert main(["verify", *NET]) == 0
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0


def test_the_report_has_no_picture_then(tmp_path: Path) -> None:
    assert main(["verify", *NET, "--report", str(tmp_path / "page.html")]) == 0
    assert "data:image/svg" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["draw", NET[0], "-o", "net.svg"],
            "a picture needs the package graphviz: pip install 'caffe2flax[draw]'",
        ),
        (
            ["draw", NET[0], "-o", "net.dot"],
            "a picture needs the package graphviz: pip install 'caffe2flax[draw]'",
        ),
        (
            ["predict", *NET, "cat.png"],
            "an image needs Pillow: pip install 'caffe2flax[predict]'",
        ),
        (
            ["export", *NET, "--to", "onnx"],
            "the export to ONNX needs onnx: pip install 'caffe2flax[onnx]'",
        ),
        (
            ["verify", *NET, "--image", "cat.png"],
            "an image needs Pillow: pip install 'caffe2flax[predict]'",
        ),
    ],
)
def test_what_needs_one(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(b"")
    assert main(argv) == 1
    assert capsys.readouterr().err == f"error: {said}\n"
