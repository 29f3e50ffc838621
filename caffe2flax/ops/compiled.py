"""A module as a function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


def compiled(model: nnx.Module, *, largest: int = 0) -> Callable[..., Any]:
    """`model`, with the weights that it has now, as a function of its inputs, compiled
    at its first call for each shape.

    largest: the numbers in an item's largest blob, where no item of a batch depends on
    another. On one CPU batches that leave the processor's cache then go two by two,
    where the weights that each pair needs are smaller.
    """
    weights, tree = jax.tree.flatten(model)
    arrays = list(map(jnp.asarray, weights))
    devices = {device for array in arrays for device in array.devices()}
    alone = [device.platform for device in devices] == ["cpu"]
    small = all(array.ndim != 2 or array.size < 2**22 for array in arrays)

    @jax.jit
    def forward(weights: list[Array], *inputs: Array) -> Any:
        whole = jax.tree.unflatten(tree, weights)
        counts = {x.shape[0] if x.ndim else 0 for x in inputs}
        fits = len(counts) != 1 or max(counts) * largest < 2**22
        if fits or not (alone and small):
            return whole(*inputs)
        return two_by_two(whole, *inputs)

    return functools.partial(forward, arrays)


def two_by_two(call: Callable[..., Any], *inputs: Array) -> Any:
    """call(*inputs), two items at a time, one of them twice where their number is
    odd."""
    count = inputs[0].shape[0]
    even = [jnp.concatenate([x, x[: count % 2]]) for x in inputs]
    pairs = [x.reshape(-1, 2, *x.shape[1:]) for x in even]
    made = lax.map(lambda pair: call(*pair), pairs)
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:count], made)
