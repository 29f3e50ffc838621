"""From a solver to the files of a training run: module, weights and script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from caffe2flax.codegen.names import module_stem
from caffe2flax.conversion import Conversion, Weights
from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.files.atomic import Write, write_all
from caffe2flax.weights.safetensors import write_safetensors


@dataclass(frozen=True, slots=True)
class Prepared:
    """The files of a training run.

    prefix: of snapshots, with the folder that the solver names. script: the text of
    the program.
    """

    conversion: Conversion
    prefix: Path
    script: str
    notes: tuple[str, ...] = field(default=())

    @property
    def stem(self) -> str:
        """The module's name."""
        return module_stem(self.conversion.name)

    def folder(self, directory: Path | None) -> Path:
        return self.prefix.parent if directory is None else directory

    def script_in(self, directory: Path | None) -> Path:
        """The path of the script."""
        return self.folder(directory).absolute() / f"{self.stem}_train.py"

    def write(
        self, directory: Path | None = None, force: bool = False
    ) -> tuple[Path, ...]:
        """Writes all files, or none. One that is there with the same content stays;
        one that was edited is replaced with `force` only, else FileExistsError."""
        folder = self.folder(directory)
        texts = {
            folder / f"{self.stem}.py": self.conversion.source,
            folder / f"{self.stem}_train.py": self.script,
        }
        targets: dict[Path, Write] = {
            path: _writer(text) for path, text in texts.items() if _differs(path, text)
        }
        edited = [path for path in targets if path.exists()]
        weights = self.conversion.weights
        held = folder / f"{self.stem}.safetensors"
        if weights is not None and (force or not edited):
            targets[held] = lambda stream: write_safetensors(stream, weights, None)
        write_all(targets, force or not edited)
        return tuple(targets)


def _writer(text: str) -> Write:
    return lambda stream: stream.write(text.encode())


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() != text.encode()
    except OSError:
        return True
