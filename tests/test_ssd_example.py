"""The example of a detector in docs/generated-code.md, run as it is written there."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caffe2flax.cli.main import main
from tests.docs import ROOT, code_blocks, part

DOCUMENT = ROOT / "docs" / "generated-code.md"
COMMAND, PROGRAM = code_blocks(part(DOCUMENT.read_text(encoding="utf-8"), "ssd"))
REAL = ROOT.parent / "shared" / "golden" / "real" / "yufacedetectnet_v1"
RED = (255, 0, 0)


def drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, program: str
) -> np.ndarray:
    """What is red in boxes.png, the photograph having no red in it: (H, W)."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "ssd", raising=False)
    try:
        assert main(shlex.split(command)[1:]) == 0
        exec(compile(program, str(DOCUMENT), "exec"), {})
    finally:
        sys.modules.pop("ssd", None)
    with Image.open("photo.jpg") as photo, Image.open("boxes.png") as boxes:
        assert boxes.size == photo.size
        return np.all(np.asarray(boxes) == RED, axis=-1)


def test_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: boxes somewhere on the photograph."""
    shutil.copytree(ROOT / "fixtures" / "ssd", tmp_path / "fixtures" / "ssd")
    rows, columns = np.mgrid[:240, :320]
    pixels = np.stack([rows // 2, columns // 2, (rows * columns) % 200], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photo.jpg")
    red = drawn(tmp_path, monkeypatch, COMMAND, PROGRAM)
    assert 100 < red.sum() < red.size / 2


@pytest.mark.parametrize("folder", [REAL] if REAL.exists() else [])
def test_a_trained_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program finds the face that Caffe found, and puts its box around it."""
    with np.load(folder / "golden.npz") as golden:
        x, rows = golden["input:data"], golden["output:detection_out"]
    height, width = x.shape[2:]
    photo = (x[0, ::-1].transpose(1, 2, 0) * 128 + 127.5).round().clip(0, 255)
    Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "photo.jpg", quality=100)
    command = f"caffe2flax convert {folder}/deploy.prototxt {folder}/weights.caffemodel"
    program = PROGRAM.replace("(160, 160)", f"({width}, {height})")
    program = program.replace("SSD(rngs=nnx.Rngs(0))", "SSD.from_pretrained()")
    program = re.sub(r"score < [0-9.]+", "score < 0.9", program)
    red = drawn(
        tmp_path,
        monkeypatch,
        f"{command} --name SSD --mean 127.5 --scale 0.0078125",
        program,
    )
    (face,) = (row[3:] for row in rows[0, 0] if row[2] >= 0.9)
    left, top, right, bottom = face * (width, height, width, height)
    found_rows, found_columns = np.nonzero(red)
    edges = found_columns.min(), found_rows.min(), found_columns.max(), found_rows.max()
    np.testing.assert_allclose(edges, (left, top, right, bottom), atol=3)
