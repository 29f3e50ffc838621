"""Layer cases written by hand: fixtures/layers/*.toml, one file for each.

    # Where the numbers come from.
    what = "scale 2"
    net = '''
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3] } } }
    layer { name: "l" type: "Cube" bottom: "x" top: "out" cube_param { scale: 2 } }
    '''

    [inputs]  # blob = its numbers
    x = [[-1.0, 0.5, 2.0]]

    [weights]  # layer = its weight blobs, in Caffe's order; left out where it has none
    l = [[1.0, 2.0], [0.0, 0.0]]

    [blobs]  # every blob that the net computes
    out = [[-2.0, 0.25, 16.0]]

A net that must be an error has `refused = "words of the error"` above `net`, and no
tables.

`phase`, `level`, `stages` and `dialect` are as for `caffe2flax.convert`.
"""

from __future__ import annotations

import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import FIXTURES, Arrays, Case
from tests.single import weights_file

FOLDER = FIXTURES / "layers"
KEYS = {"what", "net", "inputs", "weights", "blobs", "refused"}
OPTIONS = {"phase": "TEST", "level": 0, "stages": []}
_WEIGHTS = tempfile.TemporaryDirectory(prefix="caffe2flax-weights-")


@dataclass(frozen=True)
class Written(Case):
    """A case whose net and numbers are in one file."""

    @property
    def prototxt(self) -> Any:
        """The text itself."""
        return self.facts["net"]

    @property
    def weights(self) -> Path | None:
        if "weights" not in self.facts:
            return None
        path = Path(_WEIGHTS.name, f"{self.name}.caffemodel")
        if not path.exists():
            blobs = self.facts["weights"]
            weights_file(path, {name: list(map(array, blobs[name])) for name in blobs})
        return path

    def inputs(self) -> Arrays:
        return _arrays(self.facts["inputs"])

    def arrays(self, suffix: str = "") -> Arrays:
        blobs = _arrays(self.facts["blobs"])
        read = {bottom for node in self.convert().graph.nodes for bottom in node.inputs}
        inner = {value.blob for value in read} & blobs.keys()
        return {
            f"{'blob' if name in inner else 'output'}:{name}": blob
            for name, blob in blobs.items()
        }


def array(numbers: Any) -> np.ndarray:
    return np.array(numbers, np.float32)


def _arrays(table: dict[str, Any]) -> Arrays:
    return {name: array(numbers) for name, numbers in table.items()}


def written_cases() -> list[Case]:
    """All of them, by name. ValueError for a key that a case does not have."""
    return [_read(path) for path in sorted(FOLDER.glob("*.toml"))]


def _read(path: Path) -> Case:
    facts = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = facts.keys() - KEYS - OPTIONS.keys() - {"dialect"}
    if unknown or ("blobs" in facts) is ("refused" in facts):
        raise ValueError(f"{path.name}: blobs or refused, and no {sorted(unknown)}")
    named = OPTIONS | facts | {"name": path.stem, "type": ""}
    if "refused" in facts:
        named["error"] = facts["refused"]
    return Written(FOLDER, named)
