"""Large batches go two items at a time where no item depends on another."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from flax import nnx
from jax import Array, lax

from tests.cpu.common import numbers, same

CONV = nnx.Conv(3, 16, (3, 3), rngs=nnx.Rngs(0))
LAYER = nnx.Linear(16, 512, rngs=nnx.Rngs(0))
HEAD = "two items at a time:"


def of_items(x: Array) -> Array:
    y = nnx.relu(CONV(x))
    y = nnx.max_pool(y, (3, 3), (2, 2)) + 1
    return nnx.softmax(LAYER(y.max((1, 2))))


def reshaped(x: Array) -> Array:
    y = lax.slice_in_dim(jnp.tanh(CONV(x)), 0, 66, 2, 2)
    y = lax.slice_in_dim(y, 1, 64, 1, 1).reshape(x.shape[0], -1, 16)
    y = jnp.pad(y.transpose(0, 2, 1), [(0, 0), (0, 0), (1, 0)]).transpose(0, 2, 1)
    return LAYER(jnp.concatenate([y, y * 2], axis=1).sum(1))


def two_parts(x: Array) -> tuple[Array, Array]:
    y = nnx.relu(CONV(x))
    return y, nnx.max_pool(y, (2, 2), (2, 2))


def by_their_number(x: Array) -> Array:
    """The number of items is a number of the program."""
    return nnx.max_pool(CONV(x) / x.shape[0], (3, 3), (2, 2))


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize(
    "model", [of_items, reshaped, two_parts, by_their_number], ids=lambda f: f.__name__
)
def test_by_items(model: Callable[..., object], count: int, tier: str) -> None:
    x = numbers(count, 64, 66, 3)
    assert same(model, x).explain(x).startswith(HEAD)


def over_the_batch(x: Array) -> Array:
    y = CONV(x)
    return nnx.max_pool(y - y.mean(0, keepdims=True), (3, 3), (2, 2))


def mixed(x: Array) -> Array:
    return nnx.max_pool(CONV(x)[::-1], (3, 3), (2, 2))


def with_numbers_for_each_item(x: Array) -> Array:
    own = jnp.asarray(numbers(x.shape[0], 1, 1, 16))
    return nnx.max_pool(CONV(x) * own, (3, 3), (2, 2))


def moved(x: Array) -> Array:
    y = CONV(x).reshape(x.shape[0] // 2, 2, *x.shape[1:3], 16)
    return nnx.max_pool(y[:, 0], (3, 3), (2, 2))


@pytest.mark.parametrize(
    "model",
    [over_the_batch, mixed, with_numbers_for_each_item, moved],
    ids=lambda f: f.__name__,
)
def test_items_that_depend_on_each_other(
    model: Callable[..., object], tier: str
) -> None:
    x = numbers(4, 64, 66, 3)
    said = same(model, x).explain(x)
    front = said.partition("all items:")[0] if said.startswith(HEAD) else ""
    assert "reduce_window_max" not in front


def test_small_blobs_stay_together() -> None:
    x = numbers(4, 8, 8, 3)
    assert HEAD not in same(of_items, x).explain(x)


def test_inputs_of_other_counts() -> None:
    x, y = numbers(4, 64, 66, 3), numbers(3)
    assert HEAD not in same(lambda x, y: (of_items(x), y), x, y).explain(x, y)
