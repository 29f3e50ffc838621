"""Filling a module from a file."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
from flax import nnx
from jax import Array
from safetensors.numpy import load_file


def unseeded() -> Any:
    """Stands for nnx.Rngs where only shapes count: those take longer to trace."""
    return SimpleNamespace(params=lambda: jax.random.key(0))


def load_weights(model: nnx.Module, path: str | Path, head: str = "") -> None:
    """Fills `model` from a safetensors file; ValueError lists what does not fit.

    Where the layer `head` is wider or narrower than the file's it starts fresh.
    """
    weights: dict[str, Array] = jax.device_put(load_file(path))
    slots = {
        ".".join(map(str, keys)): (keys, slot.shape)
        for keys, slot in nnx.to_flat_state(nnx.state(model))
    }
    shapes = {name: shape for name, (_, shape) in slots.items()}
    if head:
        weights |= fresh_weights(weights, shapes, head)
    wrong = [f"{name} is missing" for name in shapes if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in shapes]
    wrong += [
        f"{name} has shape {weights[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    if wrong:
        cls = type(model).__name__
        raise ValueError(f"{path} does not fit {cls}: {'; '.join(wrong)}")
    leaves = ((keys, weights[name]) for name, (keys, _) in slots.items())
    nnx.update(model, nnx.from_flat_state(leaves))


def fresh_weights(
    weights: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], head: str
) -> dict[str, Array]:
    """New values for the layer `head` where its shapes are not those of `weights`."""
    own = {name: s for name, s in shapes.items() if name.startswith(f"{head}.")}
    if all(name in weights and weights[name].shape == own[name] for name in own):
        return {}
    logging.getLogger(__name__).warning("%s starts fresh: %s", head, own)
    kernel, bias = nnx.initializers.lecun_normal(), nnx.initializers.zeros_init()
    return {
        name: (kernel if len(shape) > 1 else bias)(jax.random.key(0), shape)
        for name, shape in own.items()
    }
