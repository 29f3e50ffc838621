"""A module and its weights, written together."""

from __future__ import annotations

from pathlib import Path

from caffe2flax.files.atomic import Write, write_all
from caffe2flax.weights.safetensors import Progress, write_safetensors
from caffe2flax.weights.variables import Variables


def write_files(
    directory: Path,
    stem: str,
    source: str,
    weights: Variables | None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Writes `stem.py` and, with weights, `stem.safetensors` into `directory`.

    Both appear or none; errors as for `write_all`.
    """
    targets: dict[Path, Write] = {
        directory / f"{stem}.py": lambda stream: stream.write(source.encode())
    }
    if weights is not None:
        held = weights
        targets[directory / f"{stem}.safetensors"] = lambda stream: write_safetensors(
            stream, held, progress
        )
    write_all(targets, force)
    return tuple(targets)
