"""Filling a module from a file."""

from pathlib import Path

from flax import nnx
from safetensors.flax import load_file


def load_weights(model: nnx.Module, path: str | Path) -> None:
    """Fills `model` from a safetensors file; ValueError lists what does not fit."""
    weights = load_file(path)
    slots = {
        ".".join(map(str, keys)): (keys, slot.shape)
        for keys, slot in nnx.to_flat_state(nnx.state(model))
    }
    wrong = [f"{name} is missing" for name in slots if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in slots]
    wrong += [
        f"{name} has shape {weights[name].shape}, not {shape}"
        for name, (_, shape) in slots.items()
        if name in weights and weights[name].shape != shape
    ]
    if wrong:
        cls = type(model).__name__
        raise ValueError(f"{path} does not fit {cls}: {'; '.join(wrong)}")
    leaves = ((keys, weights[name]) for name, (keys, _) in slots.items())
    nnx.update(model, nnx.from_flat_state(leaves))
