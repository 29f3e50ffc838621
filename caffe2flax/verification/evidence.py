"""What a comparison was made of, so that others can make it again: files, programs,
input, and what was left out."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from caffe2flax.conversion import VERSION
from caffe2flax.frontend.source import PathOrText, is_text

Array = NDArray[Any]

PROGRAMS = ("jax", "jaxlib", "flax", "numpy", "safetensors")
PIECE = 2**20
"""Bytes that are read at a time."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that was compared, by its content. size: bytes."""

    role: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InputFacts:
    """An input: sha256 is that of its float32 numbers, little-endian, in Caffe's axis
    order."""

    blob: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """versions: program -> version. device: what the module ran on. recipe: how the
    inputs are made. command: the command line, "" in Python."""

    files: tuple[FileFacts, ...]
    versions: Mapping[str, str]
    device: str
    recipe: str
    inputs: tuple[InputFacts, ...]
    command: str = ""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "files": [
                {"role": x.role, "name": x.name, "size": x.size, "sha256": x.sha256}
                for x in self.files
            ],
            "versions": dict(self.versions),
            "device": self.device,
            "recipe": self.recipe,
            "inputs": [
                {"blob": x.blob, "shape": list(x.shape), "sha256": x.sha256}
                for x in self.inputs
            ],
            "command": self.command,
        }


def collect_evidence(
    prototxt: PathOrText,
    weights: Sequence[str],
    source: str,
    module: Path | None,
    inputs: Mapping[str, Array],
    recipe: str,
    against: str,
    device: str,
) -> Evidence:
    """The evidence for a comparison of the module `source`. module: its file, where it
    was not made for this comparison. Raises OSError."""
    files = [_net(prototxt), *(_file("weights", Path(path)) for path in weights)]
    data = source.encode()
    name = "as convert writes it" if module is None else str(module)
    files.append(FileFacts("module", name, len(data), _digest(data)))
    beside = module.with_suffix(".safetensors") if module else None
    if beside and beside.exists():
        files.append(_file("module's weights", beside))
    return Evidence(
        tuple(files),
        dict(_versions(against)),
        f"{device}, {platform.machine()}, {platform.system()}",
        recipe,
        tuple(
            InputFacts(name, array.shape, _digest(array.astype("<f4").tobytes()))
            for name, array in inputs.items()
        ),
    )


def _net(prototxt: PathOrText) -> FileFacts:
    if not is_text(prototxt):
        return _file("net", Path(prototxt))
    data = str(prototxt).encode()
    return FileFacts("net", "a text", len(data), _digest(data))


def _file(role: str, path: Path) -> FileFacts:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return FileFacts(role, str(path), size, digest.hexdigest())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _versions(against: str) -> Iterator[tuple[str, str]]:
    yield "caffe2flax", VERSION
    yield "Python", platform.python_version()
    for name in PROGRAMS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "unknown"
    # The oracle has imported it by now.
    module = {"opencv": "cv2", "caffe": "caffe"}.get(against, "")
    if module in sys.modules:
        yield module, str(getattr(sys.modules[module], "__version__", "unknown"))
