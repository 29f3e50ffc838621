"""The history of Caffe's update rule, and the moments of optax that it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.training.library.snapshots import to_blob, to_variable


def learnable_blobs_of(table: Any) -> dict[str, tuple[Any, ...]]:
    """What the table says of each blob, shared ones once: the order of a history."""
    found: dict[str, tuple[Any, ...]] = {}
    for _, _, entries in table:
        for path, *how in entries:
            found.setdefault(path, tuple(how))
    return found


def to_history(
    table: Any, moments: Sequence[Mapping[str, Any]], kept: Sequence[Any] = ()
) -> list[NDArray[np.float32]]:
    """Caffe's history: of each moment the blobs, in Caffe's order. Where a moment has
    no such variable, the blob is that of `kept`, an earlier history, else 0."""
    history: list[NDArray[np.float32]] = []
    for moment in moments:
        for path, (shape, *how) in learnable_blobs_of(table).items():
            if path in moment:
                blob = to_blob(np.asarray(moment[path]), shape, *how)
            elif kept:
                blob = np.asarray(kept[len(history)], np.float32).reshape(shape)
            else:
                blob = np.zeros(shape, np.float32)
            history.append(blob)
    return history


def from_history(
    table: Any, history: Sequence[Any], shapes: Mapping[str, Sequence[int]]
) -> list[dict[str, NDArray[np.float32]]]:
    """The moments of Caffe's history, by the paths of the variables, whose shapes are
    given. Raises ValueError where it is that of another net."""
    blobs = learnable_blobs_of(table)
    if not blobs or len(history) % len(blobs):
        text = f"the history has {len(history)} blobs, the net has {len(blobs)}"
        raise ValueError(text)
    wanted = list(blobs.items()) * (len(history) // len(blobs))
    for (path, (shape, *_)), blob in zip(wanted, history, strict=True):
        if np.size(blob) != np.prod(shape, dtype=int):
            text = f"{path}: shape {np.shape(blob)} in the history, not {shape}"
            raise ValueError(text)
    return [
        {
            path: to_variable(history[start + i], shapes[path], *how)
            for i, (path, (_, *how)) in enumerate(blobs.items())
            if path in shapes
        }
        for start in range(0, len(history), len(blobs))
    ]
