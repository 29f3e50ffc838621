"""When a compiled program may be called, and what it depends on besides shapes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

SETTINGS = [
    name
    for name in (
        "jax_compilation_cache_dir",
        "jax_debug_infs",
        "jax_debug_key_reuse",
        "jax_debug_nans",
        "jax_default_device",
        "jax_default_matmul_precision",
        "jax_default_prng_impl",
        "jax_disable_jit",
        "jax_dynamic_shapes",
        "jax_enable_checks",
        "jax_enable_compilation_cache",
        "jax_enable_custom_prng",
        "jax_enable_x64",
        "jax_legacy_prng_key",
        "jax_no_tracing",
        "jax_numpy_dtype_promotion",
        "jax_numpy_rank_promotion",
        "jax_random_seed_offset",
        "jax_softmax_custom_jvp",
        "jax_threefry_partitionable",
    )
    if hasattr(jax.config, name)
]
"""Settings of JAX that change how a function is traced or run."""

PLAIN = {
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_enable_x64": False,
    "jax_default_device": None,
}
"""The values of settings that a compiled program needs."""


def settings() -> tuple[Hashable, ...]:
    """The settings that a program depends on."""
    config: Any = jax.config
    mesh = jax.sharding.get_abstract_mesh()
    return (mesh, *(getattr(config, name) for name in SETTINGS))


def kind(leaf: Any) -> Hashable:
    """Shape and type of an input, for which a program is compiled; None for an input
    that compiled programs do not accept."""
    if isinstance(leaf, jax.Array):
        if isinstance(leaf, jax.core.Tracer):
            return None
        weak = getattr(leaf, "weak_type", False)  # arrays of keys have no weak_type
        return (leaf.shape, leaf.dtype, weak, leaf.sharding)
    if type(leaf) is np.ndarray:
        return (leaf.shape, leaf.dtype) if leaf.dtype.kind not in "OSUMm" else None
    if isinstance(leaf, np.generic):
        return (leaf.dtype,) if leaf.dtype.kind not in "OSUMm" else None
    number = type(leaf) in (bool, int, float, complex)
    return (type(leaf),) if number else None


def plain_because(inputs: Sequence[Any], weights: Sequence[Any]) -> str:
    """Why the plain function is called; "" where a program may be."""
    if jax.default_backend() != "cpu":
        return f"JAX computes on {jax.default_backend()}"
    if not jax.sharding.get_abstract_mesh().empty:
        return "a mesh is set"
    for name, value in PLAIN.items():
        if getattr(jax.config, name, value) != value:
            return f"{name} is set"
    if any(isinstance(leaf, jax.core.Tracer) for leaf in (*inputs, *weights)):
        return "inputs are traced"
    if not all(is_here(leaf) for leaf in (*inputs, *weights)):
        return "arrays are on other devices"
    return ""


def is_here(leaf: Any) -> bool:
    """Whether an array is only on the device that programs are compiled for. Anything
    but an array of JAX is put there."""
    if not isinstance(leaf, jax.Array):
        return True
    sharding = leaf.sharding
    here = isinstance(sharding, jax.sharding.SingleDeviceSharding)
    plain = sharding.memory_kind in (None, *default_memory())
    return here and plain and leaf.devices() == {jax.devices()[0]}


def default_memory() -> Iterable[str]:
    return (jax.devices()[0].default_memory().kind,)
