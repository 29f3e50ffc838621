"""Layers that use parameters of other layers."""

from typing import Any

from flax import nnx
from jax import Array


def without(layer: nnx.Module, *names: str) -> nnx.Module:
    """`layer` without parameters that it gets at every call, by `tied`."""
    for name in names:
        setattr(layer, name, None)
    return layer


def tied(layer: nnx.Module, **arrays: Array) -> Any:
    """A copy of `layer` that uses arrays of other layers: these stay where they are."""
    twin = nnx.merge(*nnx.split(layer))
    for name, array in arrays.items():
        setattr(twin, name, nnx.Param(array))
    return twin
