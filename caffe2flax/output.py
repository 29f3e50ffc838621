"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from caffe2flax.codegen.safetensors import Progress, write_safetensors
from caffe2flax.codegen.weights import Variables

Array = NDArray[Any]


def write_files(
    directory: Path,
    stem: str,
    source: str,
    weights: Variables | None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Writes `stem.py` and, with weights, `stem.safetensors` into `directory`.

    Both are written beside their targets first and renamed when both are complete, so a
    fault leaves what was there. FileExistsError where a target exists and `force` is
    not given.
    """
    targets: dict[Path, Callable[[IO[bytes]], object]] = {
        directory / f"{stem}.py": lambda stream: stream.write(source.encode())
    }
    if weights is not None:
        held = weights
        targets[directory / f"{stem}.safetensors"] = lambda stream: write_safetensors(
            stream, held, progress
        )
    return _write(targets, force)


def write_text(path: Path, text: str, force: bool = False) -> Path:
    """Writes `text`, line ends as they are; errors as for `write_files`."""
    return write_bytes(path, text.encode(), force)


def write_bytes(path: Path, content: bytes, force: bool = False) -> Path:
    """Writes `content` as it is; errors as for `write_files`."""
    _write({path: lambda stream: stream.write(content)}, force)
    return path


def _write(
    targets: Mapping[Path, Callable[[IO[bytes]], object]], force: bool
) -> tuple[Path, ...]:
    existing = [str(path) for path in targets if os.path.lexists(path)]
    if existing and not force:
        what = "exist; --force replaces them"
        if len(existing) == 1:
            what = "exists; --force replaces it"
        raise FileExistsError(f"{' and '.join(existing)} {what}")
    finished: list[tuple[str, Path]] = []
    try:
        for path, write in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            finished.append((_written(path.parent, path.name, write), path))
        for temporary, path in reversed(finished):
            os.replace(temporary, path)
    finally:
        for temporary, _ in finished:
            Path(temporary).unlink(missing_ok=True)
    return tuple(targets)


def _written(directory: Path, name: str, write: Callable[[IO[bytes]], object]) -> str:
    """The path of a complete temporary file beside the target."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            write(stream)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary
