"""Where weights are kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caffe2flax.cpu import memory
from tests.cpu.common import numbers, same


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 7), (1100, 1000)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_copies(shape: tuple[int, ...], dtype: str) -> None:
    given = numbers(*shape).astype(jnp.dtype(dtype))
    for array in (given, jnp.asarray(given)):
        for way in (memory.own_copy, memory.placed):
            made = way(array)
            assert isinstance(made, jax.Array)
            assert (made.shape, made.dtype) == (given.shape, given.dtype)
            np.testing.assert_array_equal(np.asarray(made), given)
    own = memory.own_copy(given)
    before = np.array(given)
    given[...] = 0
    np.testing.assert_array_equal(np.asarray(own), before)


def test_arrays_start_with_a_line_of_the_cache() -> None:
    for count in (1, 5, 1000):
        assert memory.empty((count,), np.float32).ctypes.data % memory.LINE == 0


def test_keys_stay() -> None:
    key = jax.random.key(0)
    assert memory.placed(key) is key


def test_a_large_weight_is_held_once(tier: str) -> None:
    w = jnp.asarray(numbers(1200, 1000))
    forward = same(lambda x: x @ w, numbers(1, 1200))
    (made,) = (a for a in forward._prepared.values() if a.ndim == 2)
    assert made is not w
    forward = same(lambda x: x @ w[:40, :30], numbers(1, 40))
    assert all(array.nbytes < memory.LARGE for array in forward._prepared.values())
