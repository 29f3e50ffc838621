"""Snapshots are Caffe's own, bit for bit, in both formats and both ways."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.conversion import Conversion
from caffe2flax.frontend import caffemodel
from caffe2flax.layers.activation import PReLU
from caffe2flax.runner import instantiate, load_class
from caffe2flax.training.library import restoring
from caffe2flax.training.library.snapshots import (
    proto_caffemodel,
    write_hdf5_caffemodel,
    write_hdf5_snapshot,
    write_snapshot,
)
from caffe2flax.training.snapshots import (
    FIELDS,
    arrays_of,
    history_of,
    moments_of,
    write_solverstate,
)
from caffe2flax.training.table import blob_table, blobs_source
from tests.training.recorded import (
    FOLDER,
    GOLDEN,
    Case,
    cases,
    facts,
    same,
    solver_type,
)

CASES = [*cases(FOLDER), *(cases(GOLDEN) if GOLDEN.exists() else ())]


def alike(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights(case: Case, tmp_path: Path) -> None:
    conversion = case.convert()
    path = tmp_path / f"own.caffemodel{case.ending}"
    caffe2flax.save_caffemodel(instantiate(conversion), conversion, path)
    own, caffes = caffemodel.read(path), caffemodel.read(case.weights)
    assert own.net_name == caffes.net_name
    for mine, theirs in zip(own.layers, caffes.layers, strict=True):
        assert (mine.name, mine.type) == (theirs.name, theirs.type)
        assert mine.numbered.keys() == theirs.numbered.keys()
        assert alike(mine.blobs, theirs.blobs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states(case: Case, tmp_path: Path) -> None:
    conversion = caffe2flax.convert(case.net, phase="TRAIN")
    state = caffe2flax.read_solverstate(case.state)
    moments = moments_of(state, conversion, case.solver)
    history = history_of(moments, conversion, case.solver)
    assert alike(history, state.history)
    path = tmp_path / f"own.solverstate{case.ending}"
    write_solverstate(state, path)
    again = caffe2flax.read_solverstate(path)
    assert again == state
    assert alike(again.history, state.history)
    if not case.ending:
        assert path.read_bytes() == case.state.read_bytes()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scripts_read_the_same(case: Case) -> None:
    state, own = (
        caffe2flax.read_solverstate(case.state),
        restoring.read_solverstate(case.state),
    )
    assert own[:2] == (state.iter, state.learned_net)
    assert own.current_step == state.current_step
    assert alike(own.history, state.history)
    conversion = case.convert()
    shapes = {name: x.shape for name, x in (conversion.weights or {}).items()}
    layers = restoring.read_caffemodel(case.weights)
    variables = restoring.from_caffemodel(blob_table(conversion), layers, shapes)
    assert variables.keys() == shapes.keys()
    assert all(same(variables[n], x) for n, x in (conversion.weights or {}).items())


@pytest.mark.parametrize("ending", ["", ".h5"])
def test_scripts_write_the_same(ending: str, tmp_path: Path) -> None:
    case = Case(FOLDER, "shared_adam", ending)
    conversion = case.convert()
    table = blob_table(conversion)
    variables = arrays_of(instantiate(conversion))
    history = caffe2flax.read_solverstate(case.state).history
    prefix = str(tmp_path / "own")
    if ending:
        written = write_hdf5_snapshot(prefix, 10, table, variables, history, 3)
    else:
        written = write_snapshot(prefix, "n", 10, table, variables, history, 3)
    net, state = (tmp_path / f"own_iter_10.{kind}{ending}" for kind in KINDS)
    assert written == (net, state)
    assert sorted(tmp_path.iterdir()) == [net, state]
    found = caffe2flax.read_solverstate(state)
    assert found == caffe2flax.SolverState(10, str(net), (), 3)
    assert alike(found.history, history)
    mine, theirs = caffemodel.read(net), caffemodel.read(case.weights)
    assert [each.numbered.keys() for each in mine.layers] == [
        each.numbered.keys() for each in theirs.layers
    ]


KINDS = ("caffemodel", "solverstate")


def test_diffs_are_written_as_caffe_writes_them(tmp_path: Path) -> None:
    path = FOLDER / "snapshot_diff_iter_10.caffemodel"
    blobs = restoring.read_caffemodel(path)
    table = [
        (name, "", [(f"{name}/{i}", blob.shape) for i, blob in layer.items()])
        for name, layer in blobs.items()
    ]
    pairs = [(name, layer.items()) for name, layer in blobs.items()]
    every = {f"{name}/{i}": blob for name, items in pairs for i, blob in items}
    messages = [
        value
        for number, layer in restoring.proto_fields(path.read_bytes())
        if number == 100
        for field, value in restoring.proto_fields(layer)
        if field == 7
    ]
    diffs = {
        name: np.frombuffer(dict(restoring.proto_fields(message))[6], "<f4")
        for name, message in zip(every, messages, strict=True)
    }
    assert all(diff.any() for diff in diffs.values())
    written = proto_caffemodel("net", table, every, diffs)
    assert all(message in written for message in messages)
    del diffs["conv1/0"]  # as where it is frozen
    write_hdf5_caffemodel(tmp_path / "own.h5", table, every, diffs)
    with h5py.File(tmp_path / "own.h5") as file:
        assert not file["diff/conv1/0"][()].any()
        assert same(file["diff/ip2/1"][()], diffs["ip2/1"])


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        (("trace",), "sgd_multistep", ["SGD and Nesterov look alike"]),
        (("trace",), "adagrad", ["SGD and Nesterov", "no negative number"]),
        (("nu",), "adagrad", ["AdaGrad and RMSProp look alike"]),
        (("mu", "nu"), "adam", []),
        (("mu", "nu"), "adadelta", ["no negative number"]),
        (("e_g", "e_x"), "adadelta", []),
        (("e_g", "e_x"), "adam", None),
        (("sum_of_squares",), "nesterov", None),
    ],
)
def test_a_state_of_another_solver_is_named_or_refused(
    fields: tuple[str, ...], name: str, words: list[str] | None
) -> None:
    state = FOLDER / f"{name}_iter_10.solverstate"
    history = restoring.read_solverstate(state).history
    if words is None:
        with pytest.raises(ValueError, match="it is the state of another solver"):
            restoring.check_squares(fields, history)
        return
    restoring.check_squares(fields, history)
    notes = restoring.doubts(fields, history)
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.parametrize("name", facts("variants"))
def test_older_states(name: str) -> None:
    """Without a list of axes, or without the name of the weights."""
    case = Case(FOLDER, facts("variants")[name]["case"], "")
    conversion = caffe2flax.convert(case.net, phase="TRAIN")
    usual = moments_of(caffe2flax.read_solverstate(case.state), conversion, case.solver)
    state = caffe2flax.read_solverstate(FOLDER / name)
    assert bool(state.learned_net) is ("nonet" not in name)
    for field, arrays in moments_of(state, conversion, case.solver).items():
        assert arrays.keys() == usual[field].keys()
        assert all(same(array, usual[field][n]) for n, array in arrays.items())


@pytest.mark.parametrize("name", facts("restore"))
def test_a_state_of_another_solver(name: str) -> None:
    fact = facts("restore")[name]
    net = re.search(r'net: "([^"]+)"', fact["solver"])
    assert net is not None
    conversion = caffe2flax.convert(FOLDER / net[1], phase="TRAIN")
    state = caffe2flax.read_solverstate(FOLDER / fact["state"])
    solver = solver_type(fact["solver"])
    if fact["message"] is None:
        assert moments_of(state, conversion, solver)
        return
    another = "another net" if "another_net" in name else "another solver"
    with pytest.raises(ConversionError, match=another):
        moments_of(state, conversion, solver)


def test_a_state_of_other_shapes() -> None:
    case = Case(FOLDER, "adam", "")
    conversion = caffe2flax.convert(case.net, phase="TRAIN")
    state = caffe2flax.read_solverstate(case.state)
    wrong = replace(state, history=(np.zeros(5, np.float32), *state.history[1:]))
    with pytest.raises(ConversionError, match=r"shape \(5,\) for blob 0 of layer 'co"):
        moments_of(wrong, conversion, "Adam")


def test_what_the_optimizer_lacks_is_kept() -> None:
    """A frozen blob has no moments, and its history stays; BatchNorm's is 0."""
    case = Case(FOLDER, "frozen_adam", "")
    conversion = caffe2flax.convert(case.net, phase="TRAIN")
    state = caffe2flax.read_solverstate(case.state)
    moments = {
        field: {n: x for n, x in arrays.items() if not n.startswith("conv1")}
        for field, arrays in moments_of(state, conversion, "Adam").items()
    }
    kept = history_of(moments, conversion, "Adam", state.history)
    assert alike(kept, state.history)
    empty = history_of(moments, conversion, "Adam")
    frozen = [i for i, blob in enumerate(empty) if not blob.any()]
    assert frozen == [0, 1, 6, 7]


FROZEN = """name: "frozen"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 1 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "bn"
  batch_norm_param { use_global_stats: true } }
layer { name: "s" type: "Scale" bottom: "bn" top: "s"
  scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }
"""


def frozen(folder: Path) -> tuple[Conversion, Path]:
    """A net with frozen statistics, and its weights."""
    table = blob_table(caffe2flax.convert(FROZEN))
    rows = [(n, t, [entry[:2] for entry in entries]) for n, t, entries in table]
    random = np.random.default_rng(0)
    blobs = [entry for _, _, entries in rows for entry in entries]
    variables = {
        name: random.random(shape, np.float32)
        for name, shape in blobs  # type: ignore[misc]
    }
    variables["bn/2"] = np.array([7.3], np.float32)
    path = folder / "frozen.caffemodel"
    path.write_bytes(proto_caffemodel("frozen", rows, variables))
    return caffe2flax.convert(FROZEN, path), path


def test_statistics_that_stayed_are_not_rounded_again(tmp_path: Path) -> None:
    conversion, path = frozen(tmp_path)
    model = instantiate(conversion)
    own = tmp_path / "own.caffemodel"
    caffe2flax.save_caffemodel(model, conversion, own)
    assert own.read_bytes() == path.read_bytes()
    layers = restoring.read_caffemodel(own)
    shapes = {name: x.shape for name, x in arrays_of(model).items()}
    restored = restoring.from_caffemodel(blob_table(conversion), layers, shapes)
    assert all(same(restored[name], x) for name, x in arrays_of(model).items())


def test_statistics_that_changed_have_the_factor_1(tmp_path: Path) -> None:
    conversion, _ = frozen(tmp_path)
    model = instantiate(conversion)
    model.bn.mean[...] += 1
    own = tmp_path / "own.caffemodel"
    caffe2flax.save_caffemodel(model, conversion, own)
    mean, _, factor = restoring.read_caffemodel(own)["bn"].values()
    assert same(mean, np.asarray(model.bn.mean[...]))
    assert factor.tolist() == [1]
    again = arrays_of(instantiate(caffe2flax.convert(FROZEN, own)))
    assert all(same(again[name], x) for name, x in arrays_of(model).items())


def test_another_number_of_classes(tmp_path: Path) -> None:
    conversion = caffe2flax.convert(FROZEN)
    cls = load_class(conversion.name, conversion.source)
    model = cls(num_classes=9, rngs=nnx.Rngs(0))
    own = tmp_path / "own.caffemodel"
    caffe2flax.save_caffemodel(model, conversion, own)
    wide = FROZEN.replace("num_output: 5", "num_output: 9")
    again = arrays_of(instantiate(caffe2flax.convert(wide, own)))
    assert all(same(again[name], x) for name, x in arrays_of(model).items())
    shapes = {name: x.shape for name, x in arrays_of(model).items()}
    wider = blobs_source(conversion, shapes)
    assert wider == blobs_source(caffe2flax.convert(wide))


def test_a_variable_of_another_shape(tmp_path: Path) -> None:
    conversion = caffe2flax.convert(FROZEN)
    model = instantiate(conversion)
    model.c.kernel = nnx.Param(np.zeros((3, 3, 3, 4), np.float32))
    with pytest.raises(ConversionError, match=r"c.kernel has shape \(3, 3, 3, 4\)"):
        caffe2flax.save_caffemodel(model, conversion, tmp_path / "own.caffemodel")
    assert not [*tmp_path.iterdir()]


def test_a_missing_variable(tmp_path: Path) -> None:
    conversion = caffe2flax.convert(FROZEN)
    model = instantiate(conversion)
    del model.c
    with pytest.raises(ConversionError, match=r"the module has no variable c\.kernel"):
        caffe2flax.save_caffemodel(model, conversion, tmp_path / "own.caffemodel")


PRELU = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "act" type: "PReLU" bottom: "data" top: "act" }
"""


def test_a_variable_that_is_no_permutation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PReLU, "weights", lambda self, b, at: {"slope": 2 * b[0]})
    conversion = caffe2flax.convert(PRELU)
    with pytest.raises(ConversionError, match="0 of layer 'act' is no permutation"):
        caffe2flax.save_caffemodel(nnx.Module(), conversion, tmp_path / "x.caffemodel")
    assert caffe2flax.multipliers(conversion) == {"act.slope": (1, 1)}


def test_two_layers_of_one_name_are_none_in_hdf5(tmp_path: Path) -> None:
    text = PRELU + PRELU.split("\n", 2)[2].replace('bottom: "data"', 'bottom: "act"')
    text = text.replace('bottom: "act" top: "act"', 'bottom: "act" top: "top"')
    conversion = caffe2flax.convert(text)
    model = instantiate(conversion)
    caffe2flax.save_caffemodel(model, conversion, tmp_path / "own.caffemodel")
    with pytest.raises(ConversionError, match="2 layers are called 'act'"):
        caffe2flax.save_caffemodel(model, conversion, tmp_path / "own.caffemodel.h5")


def test_a_history_is_moments_of_optax() -> None:
    """Its fields are those that optax's own states have."""
    import optax

    made = {
        "SGD": optax.trace(0.9),
        "RMSProp": optax.scale_by_rms(),
        "AdaGrad": optax.scale_by_rss(),
        "AdaDelta": optax.scale_by_adadelta(),
        "Adam": optax.scale_by_adam(),
    }
    for solver, transformation in made.items():
        state = transformation.init({"w": np.zeros(2)})
        assert {*FIELDS[solver]} <= {*state._fields}
