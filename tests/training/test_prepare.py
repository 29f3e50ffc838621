"""The files of a training run, which no test here runs."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from caffe2flax.training.library.loop import Checkpoints
from caffe2flax.training.prepare import Prepared, prepare

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } }
layer { name: "labels" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" loss_weight: 0.1
  inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "ip" type: "InnerProduct" bottom: "fc" top: "ip"
  inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
"""
SIDE = """layer { name: "side" type: "InnerProduct" bottom: "fc" top: "side"
  include { phase: TEST } inner_product_param { num_output: 2 } }"""
SOLVER = 'lr_policy: "fixed" base_lr: 0.1 max_iter: 1 test_interval: 1 test_iter: 1 '


def prepared(folder: Path, net: str, solver: str = "", **options: Any) -> Prepared:
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(f'{SOLVER} net: "net.prototxt" {solver}')
    data = folder / "data.npz"
    rows = np.ones((8, 6), np.float32)
    np.savez(data, x=rows, label=np.zeros(8, np.float32))
    return prepare(folder / "solver.prototxt", data=data, **options)


def text_of(run: Prepared) -> str:
    return "\n".join(run.scripts.values())


def test_an_argument_of_the_class_reaches_model_and_snapshots(tmp_path: Path) -> None:
    found = text_of(prepared(tmp_path, NET, settings={"num_classes": 7}))
    assert "num_classes=7" in found
    assert '("ip.kernel", (7, 5), (1, 0))' in found


def test_all_that_caffe_displays_is_displayed(tmp_path: Path) -> None:
    """Scores too, but not what counts in the loss and is no output of the net."""
    found = prepared(tmp_path, NET, "snapshot_format: HDF5 snapshot_diff: true")
    losses = found.conversion.source.partition("def losses")[2].partition("def ")[0]
    assert '"accuracy": ' in losses
    script = text_of(found)
    assert 'HIDDEN = ("fc_fc_0_split_0",)' in script
    assert "losses.keys() - HIDDEN" in script
    assert 'log_snapshot(log, paths, "hdf5")' in script
    assert "last_update(optimizer)" in script


def test_layers_of_tests_alone_are_not_trained(tmp_path: Path) -> None:
    found = prepared(tmp_path, NET + SIDE, "weight_decay: 0.1")
    script = text_of(found)
    assert '"side.*": (0, 0)' in script
    assert '"*": (1, 1)' in script
    assert 'log_snapshot(log, paths, "binary")' in script
    assert "last_update(optimizer)" not in script


def test_fields_of_data_layers_without_effect_are_noted(tmp_path: Path) -> None:
    data = NET.replace(
        'type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } }',
        'type: "HDF5Data" top: "x" hdf5_data_param { batch_size: 4 source: "x" }',
    )
    skipping = data.replace("HDF5Data", "Data").replace("hdf5_data", "data")
    skipping = skipping.replace("batch_size: 4", "batch_size: 4 rand_skip: 3")
    (note,) = [n for n in prepared(tmp_path, skipping).notes if "rand_skip" in n]
    assert "begin with the first record" in note


def test_checkpoints_hold_a_history_and_are_those_of_one_run(tmp_path: Path) -> None:
    model, history = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), [np.arange(3.0), np.ones(2)]
    checkpoints = Checkpoints(tmp_path / "net", False)
    checkpoints.save(1, {"model": model}, {"n": 5}, [])
    checkpoints.save(2, {"model": model}, {"n": 6}, history)
    checkpoints = Checkpoints(tmp_path / "net", True)
    found = checkpoints.restore({"model": model})
    assert found is not None
    i, rest, kept = found
    assert (i, rest["n"]) == (2, 6)
    for one, other in zip(kept, history, strict=True):
        np.testing.assert_array_equal(one, other)
    fresh = Checkpoints(tmp_path / "net", False)  # in the folder of an earlier run
    assert 2 not in fresh
    fresh.save(1, {"model": model}, {"n": 7}, [])
    again = Checkpoints(tmp_path / "net", True).restore({"model": model})
    assert again is not None
    assert again[0] == 1
    assert 1 in fresh
