"""What is compiled: a module, a method of one, or a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import errors, nnx

from caffe2flax.cpu.errors import ChangingModelError
from caffe2flax.cpu.memory import own_copy


class Source:
    """A function of weights and inputs.

    weights: the current arrays of a module; empty for a function.
    """

    def __init__(self, model: Callable[..., Any]):
        if not callable(model):
            raise TypeError(f"{type(model).__name__} cannot be called")
        method = model if inspect.ismethod(model) else None
        owner: Any = model if method is None else method.__self__
        self.weights: list[Any] = []
        self.name = getattr(model, "__qualname__", type(model).__name__)
        if not isinstance(owner, nnx.Module):
            self.call: Callable[..., Any] = with_weights_argument(model)
            return
        graphdef, state = nnx.split(owner)
        leaves, tree = jax.tree.flatten(state)
        places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
        self.weights = [own_copy(leaves[i]) for i in places]
        others = [None if is_array(leaf) else leaf for leaf in leaves]

        def call(weights: list[Any], *args: Any, **kwargs: Any) -> Any:
            filled = list(others)
            for i, array in zip(places, weights, strict=True):
                filled[i] = array
            own = nnx.merge(graphdef, jax.tree.unflatten(tree, filled))
            forward = own if method is None else method.__func__
            y = forward(*(() if method is None else (own,)), *args, **kwargs)
            refuse_changes(own, jax.tree.unflatten(tree, filled))
            return y

        self.call = call
        call.__name__ = self.name

    def trace(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The jaxpr of weights and inputs, and the tree of the outputs."""
        trace = jax.make_jaxpr(self.call, return_shape=True)
        closed, shapes = trace(self.weights, *args, **kwargs)
        return closed, jax.tree.structure(shapes)


def is_function(model: Callable[..., Any]) -> bool:
    """Whether it is neither a module nor a method of one."""
    owner = getattr(model, "__self__", model) if inspect.ismethod(model) else model
    return callable(model) and not isinstance(owner, nnx.Module)


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray))


def with_weights_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with a first argument for weights, which it ignores. Flax's error for
    a module that the call changes becomes a ChangingModelError."""

    def call(weights: list[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except errors.TraceContextError as error:
            raise ChangingModelError(
                "the function changes a module's variables; call model.eval() of it "
                "first, or give it random keys as inputs"
            ) from error

    return call


def refuse_changes(module: nnx.Module, before: Any) -> None:
    """Raises ChangingModelError where a module's variables are not those of
    `before`."""
    old = dict(nnx.to_flat_state(before))
    new = dict(nnx.to_flat_state(nnx.state(module)))
    changed = [
        ".".join(map(str, path))
        for path in {**old, **new}
        if path not in old
        or path not in new
        or any(
            a is not b
            for a, b in zip(
                jax.tree.leaves(old[path]), jax.tree.leaves(new[path]), strict=True
            )
        )
    ]
    if changed:
        raise ChangingModelError(
            f"a call changes variables of {type(module).__name__}: "
            f"{', '.join(changed[:5])}; call model.eval() before it is compiled"
        )
