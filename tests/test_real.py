"""Trained networks against Caffe's activations, where their files are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.exports.onnx.observe import observe
from tests.exports.models import as_onnx
from tests.golden import distance, part

REAL = Path(__file__).parents[2] / "shared" / "golden" / "real"
INDEX = REAL / "index.json"
MODELS = (
    [fact["folder"] for fact in json.loads(INDEX.read_text())] if INDEX.exists() else []
)
DETECTORS = {"yufacedetectnet_v1"}
"""SSD: boxes that all but tie may change places; tested in layers/forks."""
BOUND = 1e-4


@pytest.mark.parametrize("name", sorted(set(MODELS) - DETECTORS))
def test_outputs(name: str) -> None:
    """Through `run`; and at 64 places of every blob that Caffe has under that name."""
    folder = REAL / name
    with np.load(folder / "golden.npz") as archive:
        golden = dict(archive)
    files = folder / "deploy.prototxt", folder / "weights.caffemodel"
    outputs = part(golden, "output:")
    ours = caffe2flax.run(*files, part(golden, "input:"))
    assert ours.keys() == outputs.keys()
    far = {blob: distance(ours[blob], outputs[blob]) for blob in outputs}
    assert max(far.values()) <= BOUND, far

    blobs = caffe2flax.run(*files, part(golden, "input:"), blobs="all")
    seen = 0
    for blob, array in blobs.items():
        if f"blob:{blob}:value" not in golden:
            continue
        assert array.shape == tuple(golden[f"blob:{blob}:shape"])
        stats = golden[f"blob:{blob}:stats"]
        largest = max(abs(stats[2]), abs(stats[3]), 1e-6)
        places = array.ravel()[golden[f"blob:{blob}:index"]]
        wanted = golden[f"blob:{blob}:value"]
        assert np.abs(places - wanted).max() <= BOUND * largest, blob
        seen += 1
    assert seen >= len(outputs)


@pytest.mark.parametrize("name", sorted(set(MODELS) - DETECTORS))
def test_onnx(name: str, tmp_path: Path) -> None:
    """The outputs of the ONNX model in ONNX Runtime."""
    folder = REAL / name
    with np.load(folder / "golden.npz") as archive:
        golden = dict(archive)
    files = folder / "deploy.prototxt", folder / "weights.caffemodel"
    conversion, path = caffe2flax.convert(*files), tmp_path / "net.onnx"
    translation = as_onnx(conversion, path)
    inputs, outputs = part(golden, "input:"), part(golden, "output:")
    ours = observe(path, translation, conversion, inputs).values
    for port in translation.outputs:
        wanted = outputs[port.value.blob]
        assert distance(np.asarray(ours[port.value]), wanted) <= BOUND, port.name
