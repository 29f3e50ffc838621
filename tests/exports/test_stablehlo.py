"""StableHLO programs: they run in a process without Flax."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax import ConversionError
from tests.golden import FIXTURES
from tests.single import single

DIGITS = FIXTURES / "digits"
NET = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
RUN = """
import sys
sys.modules["flax"] = None
from pathlib import Path
import jax.export
import numpy as np
from safetensors.numpy import load_file

images = np.load("images.npy")
found = []
for folder in map(Path, ("beside", "bundled")):
    program = jax.export.deserialize((folder / "digitslenet.stablehlo").read_bytes())
    weights = folder / "digitslenet.safetensors"
    given = [load_file(weights)] if weights.exists() else []
    for batch in (1, 3):
        found.append(program.call(*given, images[:batch]))
np.save("found.npy", np.concatenate(found))
"""


def test_runs_without_flax(tmp_path: Path) -> None:
    """With the weights beside it and in it, at batch 1 and 3."""
    for name, bundle in (("beside", False), ("bundled", True)):
        written = caffe2flax.export(
            *NET, to="stablehlo", path=tmp_path / name, bundle=bundle, verify=True
        )
        assert written.ok
        assert (tmp_path / name / "digitslenet.safetensors").exists() is not bundle
    facts = json.loads((tmp_path / "beside" / "digitslenet.json").read_text())
    assert facts["inputs"][0]["shape"] == "b, 28, 28, 1"
    assert facts["platforms"] == ["cpu", "cuda", "tpu"]
    with np.load(DIGITS / "digits_test.npz") as test:
        images = test["data"][:3].astype(np.float32) / 16
        prob = test["prob"]
    np.save(tmp_path / "images.npy", images.transpose(0, 2, 3, 1))
    subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, check=True)
    wanted = np.concatenate([prob[:1], prob[:3]] * 2)
    assert np.abs(np.load(tmp_path / "found.npy") - wanted).max() <= 1e-5


def test_batch(tmp_path: Path) -> None:
    fixed = single("Reshape", "reshape_param { shape { dim: 2 dim: 12 } }", (2, 3, 4))
    written = caffe2flax.export(fixed, to="stablehlo", path=tmp_path)
    assert written.notes[-1] == "it takes the batch of the file only"
    with pytest.raises(ConversionError, match="batch"):
        caffe2flax.export(fixed, to="stablehlo", path=tmp_path, batch="dynamic")
    caffe2flax.export(*NET, to="stablehlo", path=tmp_path / "five", batch=5)
    facts = json.loads((tmp_path / "five" / "digitslenet.json").read_text())
    assert facts["inputs"][0]["shape"] == "5, 28, 28, 1"


def test_what_depends_on_data_is_refused(tmp_path: Path) -> None:
    chosen = single("Filter", "", (4, 3), (4,))
    with pytest.raises(ConversionError, match="'l'"):
        caffe2flax.export(chosen, to="stablehlo", path=tmp_path)
    assert not [*tmp_path.iterdir()]
