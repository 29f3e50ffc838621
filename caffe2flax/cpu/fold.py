"""Values that depend on weights only are computed once, in float64 where that is
simple."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np


def _broadcast(x: Any, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    sizes = [1] * len(shape)
    for size, axis in zip(x.shape, broadcast_dimensions, strict=True):
        sizes[axis] = size
    return np.broadcast_to(x.reshape(sizes), shape)


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "exp": np.exp,
    "copy": lambda x: x,
    "stop_gradient": lambda x: x,
}
"""Operations on float32 whose parameters do not change the result."""

SHAPING: dict[str, Callable[..., Any]] = {
    "integer_pow": lambda x, y, **_: x**y,
    "reshape": lambda x, new_sizes, **_: x.reshape(new_sizes),
    "squeeze": lambda x, dimensions, **_: x.squeeze(tuple(dimensions)),
    "transpose": lambda x, permutation, **_: x.transpose(permutation),
    "expand_dims": lambda x, dimensions, **_: np.expand_dims(x, tuple(dimensions)),
    "broadcast_in_dim": _broadcast,
}
"""Operations on float32 with parameters."""

SMALL = 2**16
"""The largest size, in elements, that is computed in float64."""


def worth_folding(eqn: Any, inputs: list[Any], outputs: list[Any]) -> bool:
    """Whether an equation is computed once. Not if its output is much larger than its
    inputs, as that of `jnp.zeros`: it would be kept in memory and read at each call."""
    if len(outputs) != 1 or not all(value.known for value in inputs):
        return False
    if eqn.effects or "callback" in eqn.primitive.name:
        return False
    read: int = sum(math.prod(value.shape) for value in inputs)
    written: int = math.prod(outputs[0].shape)
    return written <= max(SMALL, 2 * read)


def folded(
    eqn: Any, run: Callable[..., Any], inputs: list[Any]
) -> tuple[Callable[[], Any], Hashable]:
    """The function that computes an equation, and the key of its value."""
    name, aval = eqn.primitive.name, eqn.outvars[0].aval
    simple = aval.dtype == np.float32 and all(v.dtype == np.float32 for v in inputs)
    keys = tuple(value.key for value in inputs)
    key: Hashable = object()
    if name in ARITHMETIC:
        key = (name, keys)
    elif name in SHAPING:
        key = (name, repr(sorted(eqn.params.items(), key=lambda item: item[0])), keys)

    def compute() -> Any:
        arrays = [value.constant for value in inputs]
        if simple and math.prod(aval.shape) <= SMALL:
            wide = [np.asarray(array, np.float64) for array in arrays]
            with np.errstate(all="ignore"):
                if name in ARITHMETIC:
                    return ARITHMETIC[name](*wide)
                if name in SHAPING:
                    return SHAPING[name](*wide, **eqn.params)
        given = [as_given(value) for value in inputs]
        with jax.ensure_compile_time_eval():
            found = jax.jit(lambda *arrays: run(*arrays, **eqn.params))(*given)
        return found[0] if eqn.primitive.multiple_results else found

    return compute, key


def as_given(value: Any) -> Any:
    """The constant of a known value, in the value's own type."""
    array = value.constant
    return array if array.dtype == value.dtype else np.asarray(array, value.dtype)
