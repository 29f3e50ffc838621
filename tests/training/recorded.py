"""Solver states and weights that Caffe wrote."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import caffe2flax
from caffe2flax.conversion import Conversion

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "fixtures" / "snapshots"
GOLDEN = ROOT.parent / "shared" / "golden" / "snapshots"
"""All that was recorded, where it is at hand."""


@dataclass(frozen=True)
class Case:
    """A run of ten updates; `ending` is ".h5" for what it wrote as HDF5."""

    folder: Path
    name: str
    ending: str

    def __str__(self) -> str:
        return f"{self.name}{self.ending}"

    @property
    def net(self) -> Path:
        return self.folder / f"{self.name}.net.prototxt"

    @property
    def weights(self) -> Path:
        return self.folder / f"{self.name}_iter_10.caffemodel{self.ending}"

    @property
    def state(self) -> Path:
        return self.folder / f"{self.name}_iter_10.solverstate{self.ending}"

    @property
    def solver(self) -> str:
        return solver_type((self.folder / f"{self.name}.solver.prototxt").read_text())

    def convert(self) -> Conversion:
        return caffe2flax.convert(self.net, self.weights, phase="TRAIN")


def cases(folder: Path) -> list[Case]:
    every = [Case(folder, name, end) for name in facts("index") for end in ("", ".h5")]
    return [case for case in every if case.state.exists()]


@cache
def facts(name: str) -> dict[str, Any]:
    """A list of what was recorded: "index", "variants", "restore"."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def solver_type(text: str) -> str:
    found = re.search(r'type: "(\w+)"', text)
    return found[1] if found else "SGD"


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
