"""The nets of a solver: where their files are."""

from __future__ import annotations

import os
from pathlib import Path

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.frontend.source import NetSource
from caffe2flax.training.graphs import NetState
from caffe2flax.training.parameter import SolverNet

PathLike = str | os.PathLike[str]


def phases_of(count: int) -> list[tuple[str, str]]:
    """The phase of each net, and what its batches are called."""
    tests = [("TEST", f"test{f'_{i}' if i else ''}") for i in range(count - 1)]
    return [("TRAIN", "train"), *tests]


def state_of(net: SolverNet, given: PathLike | None, folder: Path) -> NetState:
    """Where a net is, and which of its layers are meant."""
    source: NetSource
    if net.message is not None:
        source = net.message
    elif given is not None:
        source = Path(given).absolute()
    else:
        assert net.file is not None
        source = file_of(net.file, folder, "--net")
    return NetState(source, net.level or 0, net.stages)


def file_of(path: str, folder: Path, option: str) -> Path:
    """A file that a solver names: beside the solver, or from the current folder as
    Caffe has it. Raises ConversionError where it is nowhere."""
    places = [folder / path, folder / Path(path).name, Path(path)]
    for place in places:
        if place.is_file():
            return place.absolute()  # as scripts are run from any folder
    shown = ", ".join(str(place) for place in dict.fromkeys(places))
    text = f"{path!r} is not there (looked for {shown}): give it with {option}"
    raise ConversionError(Problem(text))


def arrays_only(data: PathLike | None) -> PathLike | None:
    """Arrays serve the test nets as well; a database for training does not."""
    return data if data is not None and Path(data).suffix == ".npz" else None


def absolute(path: PathLike | None) -> str | None:
    return None if path is None else os.path.abspath(path)
