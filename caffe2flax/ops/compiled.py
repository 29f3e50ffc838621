"""A module as a function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


class Compiled:
    """`model`, with the weights that it has now, as a function of its inputs, compiled
    at its first call for each shape.

    largest: the numbers in an item's largest blob, where no item of a batch depends on
    another. On one CPU batches that leave the processor's cache then go two by two,
    where the weights that each pair needs are smaller.
    prepare: on one CPU, what puts weights into another form, whatever the batch: from
    the model, a dict to keep them in, and the inputs.
    """

    def __init__(
        self,
        model: nnx.Module,
        *,
        largest: int = 0,
        prepare: Callable[..., nnx.Module] | None = None,
    ):
        weights, tree = jax.tree.flatten(model)
        arrays = list(map(jnp.asarray, weights))
        devices = {device for array in arrays for device in array.devices()}
        alone = [device.platform for device in devices] == ["cpu"]
        small = all(array.ndim != 2 or array.size < 2**22 for array in arrays)
        self.model: nnx.Module = jax.tree.unflatten(tree, arrays)
        self.prepare = prepare if alone else None
        self.prepared: dict[Any, Any] = {}
        self.largest = largest if alone and small else 0
        self.programs: dict[Any, functools.partial[Any]] = {}

    def __call__(self, *inputs: Array) -> Any:
        return self.program(*inputs)(*inputs)

    def program(self, *inputs: Array) -> functools.partial[Any]:
        """The function that is called with such inputs, of which jax.jit made one of
        weights and inputs, and those weights."""
        traced = any(isinstance(x, jax.core.Tracer) for x in inputs)
        items = None if traced else tuple((x.shape[1:], x.dtype) for x in inputs)
        if items not in self.programs:
            model = self.model
            if self.prepare is not None and not traced:
                model = self.prepare(model, self.prepared, *inputs)
            self.programs[items] = bound(model, self.largest)
        return self.programs[items]


def bound(model: nnx.Module, largest: int) -> functools.partial[Any]:
    """`model` with its weights, for `Compiled`."""
    weights, tree = jax.tree.flatten(model)

    @jax.jit
    def forward(weights: list[Array], *inputs: Array) -> Any:
        whole = jax.tree.unflatten(tree, weights)
        counts = {x.shape[0] if x.ndim else 0 for x in inputs}
        if len(counts) != 1 or max(counts) * largest < 2**22:
            return whole(*inputs)
        return two_by_two(whole, *inputs)

    return functools.partial(forward, weights)


def two_by_two(call: Callable[..., Any], *inputs: Array) -> Any:
    """call(*inputs), two items at a time, one of them twice where their number is
    odd."""
    count = inputs[0].shape[0]
    even = [jnp.concatenate([x, x[: count % 2]]) for x in inputs]
    pairs = [x.reshape(-1, 2, *x.shape[1:]) for x in even]
    made = lax.map(lambda pair: call(*pair), pairs)
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:count], made)
