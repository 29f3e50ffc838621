"""What a solver.prototxt says, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

import caffe2flax
from caffe2flax import ConversionError, read_solver
from caffe2flax.frontend import prototxt
from caffe2flax.training.parameter import NetState
from caffe2flax.training.reading import state_in
from tests.golden import FIXTURES

REFUSED_BY_NETS = {"shared_multipliers", "shared_shapes"}
CASES: dict[str, dict[str, Any]] = {
    name: case
    for name, case in json.loads((FIXTURES / "solver/errors.json").read_text())[
        "cases"
    ].items()
    if name not in REFUSED_BY_NETS
}
FIXED = 'net: "n" lr_policy: "fixed" '


@pytest.mark.parametrize("name", CASES)
def test_what_caffe_refuses_is_refused(name: str) -> None:
    case = CASES[name]
    if case["message"] is None:
        assert read_solver(case["solver"]).net == "net.prototxt"
        return
    with pytest.raises(ConversionError) as caught:
        read_solver(case["solver"])
    assert len(caught.value.problems) == 1


REFUSED = (
    ('net: "n" ^lr_policy: "plateau"', "is that of a fork, and not supported"),
    ('net: "n" ^lr_policy: "stpe"', "did you mean step?"),
    (f"{FIXED}^stagelr: 3", "unknown field stagelr in the solver"),
    (f"{FIXED}base_lr: 1 ^base_lr: 2", "base_lr is given twice"),
    (f"{FIXED}^base_lr: nan", "base_lr is nan"),
    (f"{FIXED}^momentum: 1e39", "momentum is inf"),
    (f"{FIXED}^iter_size: 0", "iter_size is at least 1"),
    (f"{FIXED}^display: 3000000000", "from -2147483648 to 2147483647"),
    (f"{FIXED}^solver_type: 6", "solver_type is one of SGD"),
    (f"{FIXED}^snapshot_format: BINARY", "did you mean BINARYPROTO?"),
    (f'{FIXED}^test_net: "t" test_interval: 1', "0 numbers, and there are 1"),
    (
        'train_net: "n" lr_policy: "fixed" ^test_iter: 1 test_interval: 1',
        "none of which is `net`",
    ),
    (
        f"{FIXED}test_iter: 1 test_interval: 1 ^test_state {{}} test_state {{}}",
        "2 test_state for 1 test_iter",
    ),
    ('net: "n" lr_policy: "step" ^stepsize: -1', "stepsize above 0"),
    ('net: "n" lr_policy: "exp" ^gamma: -1', "must not be negative"),
    ('^layer { name: "a" }', "this is a net; a solver is wanted"),
)
"""A solver with a mark where the problem is, and words of the problem."""


@pytest.mark.parametrize(("marked", "words"), REFUSED)
def test_refusals_have_their_place(marked: str, words: str) -> None:
    with pytest.raises(ConversionError) as caught:
        read_solver(marked.replace("^", ""))
    (found,) = [p for p in caught.value.problems if words in p.message]
    assert (found.line, found.column) == (1, marked.index("^") + 1)


def test_all_problems_are_named_at_once() -> None:
    text = 'net: "n"\nlr_policy: "cosine"\ntype: "AdaGrad"\nmomentum: 0.9\nwarm: 1\n'
    with pytest.raises(ConversionError) as caught:
        read_solver(text)
    assert {p.line for p in caught.value.problems} == {2, 4, 5}


def test_defaults_are_caffes_in_float32() -> None:
    solver = read_solver(FIXED)
    assert solver.momentum2 == 0.9990000128746033
    assert solver.delta == 9.99999993922529e-09
    assert solver == caffe2flax.Solver(net="n")


def test_older_spellings() -> None:
    assert read_solver(f"{FIXED}solver_type: ADAM").type == "Adam"
    assert read_solver(f"{FIXED}solver_type: 1").type == "Nesterov"
    assert read_solver(f"{FIXED}snapshot_format: 0").snapshot_format == "HDF5"


def test_fields_without_effect_are_noted() -> None:
    solver = read_solver(f"{FIXED}base_lr: 1 max_iter: 1 solver_mode: GPU device_id: 1")
    assert [note.split()[0] for note in solver.notes] == ["solver_mode", "device_id"]
    assert len(read_solver(FIXED).notes) == 2


def test_weights_may_list_several_files() -> None:
    solver = read_solver(f'{FIXED}weights: "a, b" weights: "c,"')
    assert solver.weight_files == ("a", "b", "c")


def test_a_file_gives_the_prefix_of_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "lenet_solver.prototxt"
    path.write_text(FIXED)
    assert read_solver(path).snapshot_prefix == str(tmp_path / "lenet_solver")
    path.write_text(f'{FIXED}snapshot_prefix: "{tmp_path.as_posix()}"')
    assert read_solver(str(path)).snapshot_prefix == str(tmp_path / "lenet_solver")
    path.write_text(f'{FIXED}snapshot_prefix: "a/b"')
    assert read_solver(path).snapshot_prefix == "a/b"


NETS = """
lr_policy: "fixed" test_interval: 5
train_state { stage: "a" }
net: "both" test_net: "file" test_net_param { state { level: 4 stage: "own" } }
test_iter: [1, 2, 3, 4]
test_state { stage: "inner" } test_state { level: 2 } test_state {}
test_state { phase: TRAIN }
"""


def test_nets_are_tested_in_the_order_of_caffe() -> None:
    solver = read_solver(NETS)
    net = solver.training_net
    assert (net.file, net.phase, net.stages) == ("both", "TRAIN", ("a",))
    found = [
        (n.file, n.phase, n.level, n.stages, n.iterations) for n in solver.test_nets
    ]
    assert found == [
        (None, "TEST", 4, ("own", "inner"), 1),
        ("file", "TEST", 2, (), 2),
        ("both", "TEST", None, (), 3),
        ("both", "TRAIN", None, (), 4),
    ]


def test_the_state_of_a_file_is_merged() -> None:
    file = prototxt.parse('state { phase: TRAIN level: 3 stage: "own" }')
    _, second, third, _ = read_solver(NETS).test_nets
    assert state_in(second, file) == NetState("TEST", 2, ("own",))
    assert state_in(third, file) == NetState("TEST", 3, ("own",))
