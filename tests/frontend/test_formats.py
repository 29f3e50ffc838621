"""Weights from every format of file: the same results as from the current one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.frontend.prototxt import parse
from caffe2flax.frontend.snapshot import as_written, without_splits
from tests.golden import Case, cases, distance, part

CASES = {case.name: case for case in cases("layers")}
SUFFIXES = (
    ".v0.caffemodel",
    ".v1.caffemodel",
    ".double.caffemodel",
    ".caffemodel.h5",
)
REAL = Path(__file__).parents[3] / "shared" / "golden" / "real"

FILES = [
    (case, path)
    for case in CASES.values()
    for suffix in SUFFIXES
    if (path := case.folder / f"{case.name}{suffix}").exists()
]


def test_there_is_a_file_of_each_format() -> None:
    found = {path.name.partition(".")[2] for _, path in FILES}
    assert found == {suffix[1:] for suffix in SUFFIXES}


@pytest.mark.parametrize(("case", "path"), FILES, ids=[p.name for _, p in FILES])
def test_same_results(case: Case, path: Path) -> None:
    """The module, every variable and every output, to the last bit."""
    current = caffe2flax.convert(case.prototxt, case.weights, **case.options)
    other = caffe2flax.convert(case.prototxt, path, **case.options)
    assert other.source == current.source
    assert current.weights is not None
    assert other.weights is not None
    assert other.weights.keys() == current.weights.keys()
    for name, array in current.weights.items():
        assert other.weights[name].dtype == np.float32
        assert np.array_equal(other.weights[name], array), name
    inputs = case.inputs()
    ours = caffe2flax.run(case.prototxt, path, inputs, **case.options)
    for name, array in part(case.arrays(), "output:").items():
        assert distance(ours[name], array) <= 1e-5


ALONE = (
    "v0_convnet",
    "split_implicit",
    "text_quirks",
    "shared_conv",
    "rules_two_includes",
    "train_lenet_mini",
)


@pytest.mark.parametrize("name", ALONE)
def test_a_file_alone(name: str) -> None:
    """The architecture in a weights file gives the module of its prototxt."""
    case = CASES[name]
    assert case.weights is not None
    options = {"phase": case.facts["phase"]}
    ours = caffe2flax.run(case.weights, None, case.inputs(), **options)
    outputs = part(case.arrays(), "output:")
    assert ours.keys() == outputs.keys()
    for blob, array in outputs.items():
        assert distance(ours[blob], array) <= 1e-5
    both = caffe2flax.convert(case.prototxt, case.weights, **case.options)
    alone = caffe2flax.convert(case.weights, **options)
    assert alone.weights is not None
    assert both.weights is not None
    assert alone.weights.keys() == both.weights.keys()
    assert _body(alone) == _body(both)


def _body(conversion: caffe2flax.Conversion) -> str:
    return conversion.source.partition("def __call__")[2]


def test_a_trained_net_at_test() -> None:
    """A file that Caffe wrote in training serves at test: layers forget the phase."""
    case = CASES["train_lenet_mini"]
    assert case.weights is not None
    alone = caffe2flax.convert(case.weights)
    assert [node.name for node in alone.graph.nodes][-1] == "loss"
    assert "loss" in {value.blob for value in alone.graph.outputs}


SNAPSHOT = """
layer { name: "d" type: "Data" top: "x" phase: TRAIN include { phase: TRAIN }
  transform_param { crop_size: 4 } data_param { batch_size: 2 } }
layer { name: "x_d_0_split" type: "Split" bottom: "x" top: "x_d_0_split_0"
  top: "x_d_0_split_1" phase: TRAIN }
layer { name: "a" type: "ReLU" bottom: "x_d_0_split_0" top: "a" phase: TRAIN }
layer { name: "b" type: "TanH" bottom: "x_d_0_split_1" top: "b" phase: TRAIN }
layer { name: "mine" type: "Split" bottom: "a" top: "m" top: "n" phase: TRAIN }
layer { name: "b_b_0_split" type: "Split" bottom: "b" top: "b_b_0_split_0"
  top: "b_b_0_split_1" phase: TRAIN }
layer { name: "c" type: "TanH" bottom: "b_b_0_split_0" top: "c" phase: TRAIN }
"""
WRITTEN = """
layer { name: "d" type: "Data" top: "x"
  transform_param { crop_size: 4 } data_param { batch_size: 2 } }
layer { name: "a" type: "ReLU" bottom: "x" top: "a" }
layer { name: "b" type: "TanH" bottom: "x" top: "b" }
layer { name: "mine" type: "Split" bottom: "a" top: "m" top: "n" }
layer { name: "b_b_0_split" type: "Split" bottom: "b" top: "b_b_0_split_0"
  top: "b_b_0_split_1" }
layer { name: "c" type: "TanH" bottom: "b_b_0_split_0" top: "c" }
"""


def test_as_written() -> None:
    """Own Splits stay, and those with a top that nobody reads."""
    assert as_written(parse(SNAPSHOT)) == parse(WRITTEN)
    assert as_written(parse(WRITTEN)) == parse(WRITTEN)
    mixed = SNAPSHOT.replace("phase: TRAIN", "phase: TEST", 1)
    assert as_written(parse(mixed)) == without_splits(parse(mixed))


def test_a_snapshot_alone_holds_no_net() -> None:
    path = CASES["v0_convnet"].folder / "v0_convnet.caffemodel.h5"
    with pytest.raises(caffe2flax.ConversionError, match="give its prototxt too"):
        caffe2flax.convert(path)


HALVES = [REAL / "hyperlpr_fp16"] if REAL.exists() else []


@pytest.mark.parametrize("folder", HALVES, ids=lambda folder: folder.name)
def test_half_precision(folder: Path) -> None:
    """Weights of half precision give what their roundings give in single precision."""
    single = REAL / "hyperlpr_HorizonalFinemapping"
    prototxt = single / "deploy.prototxt"
    halves = caffe2flax.convert(prototxt, folder / "weights.caffemodel")
    singles = caffe2flax.convert(prototxt, single / "weights.caffemodel")
    assert halves.weights is not None
    assert singles.weights is not None
    for name, array in singles.weights.items():
        rounded = array.astype(np.float16).astype(np.float32)
        assert np.array_equal(halves.weights[name], rounded), name
    with np.load(single / "golden.npz") as archive:
        arrays = dict(archive)
    weights = folder / "weights.caffemodel"
    ours = caffe2flax.run(prototxt, weights, part(arrays, "input:"))
    for blob, array in part(arrays, "output:").items():
        assert distance(ours[blob], array) <= 1e-3
