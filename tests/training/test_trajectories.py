"""Weights after 1, 5 and 20 updates are those that Caffe recorded."""

from pathlib import Path

import pytest

from tests.golden import FIXTURES
from tests.training.recorded import GOLDEN
from tests.training.trajectories import differences, resumed

FOLDER = FIXTURES / "solver"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda p: p.stem)
def test_the_weights_are_caffes(path: Path) -> None:
    assert max(differences(FOLDER, path.stem)) <= 1


@pytest.mark.skipif(not GOLDEN.exists(), reason="the recorded runs are not at hand")
@pytest.mark.parametrize("name", ["multistep_edited", "frozen_adam", "adadelta"])
def test_a_run_goes_on_from_a_solver_state_of_caffe(name: str) -> None:
    assert resumed(GOLDEN, name) <= 1
