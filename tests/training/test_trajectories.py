"""Weights after 1, 5 and 20 updates are those that Caffe recorded."""

from pathlib import Path

import pytest

from tests.golden import FIXTURES
from tests.training.trajectories import differences

FOLDER = FIXTURES / "solver"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda p: p.stem)
def test_the_weights_are_caffes(path: Path) -> None:
    found = differences(FOLDER, path.stem)
    assert max(found.values()) <= 1, found
