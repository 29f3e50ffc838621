"""Filling a module from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from safetensors.flax import load_file


def load_weights(model: nnx.Module, path: str | Path, fresh: Any = ()) -> None:
    """Fills `model` from a file, which must fit; layers `fresh` may start anew."""
    file = next(Path(path).glob(f"{Path(__file__).stem}.safetensors"), path)  # a folder
    weights, leaves = load_file(file), list[Any]()
    wrong = [f"{k} is {x.dtype}" for k, x in weights.items() if x.dtype.kind in "biuc"]
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        name, shape = ".".join(map(str, keys)), variable.shape
        found = getattr(array := weights.pop(name, None), "shape", "missing")
        if keys[0] in fresh and found[:-1] == shape[:-1] and found != shape:
            array = nnx.initializers.normal(0.01)(nnx.Rngs(0).params(), shape)
        elif found != shape:
            wrong.append(f"{name} is {found} in the file, not {shape}")
        leaves.append((keys, array, variable.dtype))
    if wrong := wrong + [f"{name} is unknown" for name in weights]:
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong)}")
    nnx.update(model, nnx.from_flat_state([(k, x.astype(t)) for k, x, t in leaves]))


def load_trained(model: nnx.Module, path: str | Path, fresh: Sequence[str]) -> None:
    """Fills `model` from a file, which must fit; layers of `fresh` that have another
    width there stay as they were drawn."""
    file = next(Path(path).glob(f"{Path(__file__).stem}.safetensors"), path)  # a folder
    weights, leaves, wrong = load_file(file), list[Any](), list[str]()
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        name, shape = ".".join(map(str, keys)), variable.shape
        array = weights.pop(name, None)
        found = "missing" if array is None else array.shape
        if keys[0] in fresh and found[:-1] == shape[:-1] and found != shape:
            continue
        if array is None or found != shape or array.dtype.kind in "biuc":
            kind = "" if array is None else f" {array.dtype}"
            wrong.append(f"{name} is {found}{kind} in the file, not {shape}")
            continue
        leaves.append((keys, array.astype(variable.dtype)))
    if wrong := wrong + [f"{name} is unknown" for name in weights]:
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong)}")
    nnx.update(model, nnx.from_flat_state(leaves))
