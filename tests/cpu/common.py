"""Compiled modules compared with plain ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import caffe2flax
from caffe2flax.cpu import onednn
from caffe2flax.cpu.compiled import Compiled

ONEDNN = all(
    onednn.available(what)  # type: ignore[arg-type]
    for what in ("convolution", "product", "packed")
)


def without_onednn(what: str) -> bool:
    """`available` where no call is right."""
    return False


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def drawn(key: Any, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Array:
    """An initializer; JAX's would compile something for each shape."""
    largest = np.float32(max(1, math.prod(shape[:-1])) ** 0.5)
    return jnp.asarray(numbers(*shape) / largest)


def filled(make: Callable[[], Any]) -> Any:
    """The nnx module that `make` returns, in eval mode, with random numbers by NumPy:
    JAX would compile a program for each shape. Variances are positive."""
    model = nnx.eval_shape(make)
    random = np.random.default_rng(0)

    def number(path: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if leaf.dtype != np.float32:
            return np.zeros(leaf.shape, leaf.dtype)
        drawn = random.standard_normal(leaf.shape, np.float32)
        if "var" in jax.tree_util.keystr(path):
            return drawn**2 + np.float32(0.1)
        return drawn / np.float32(max(1, math.prod(leaf.shape[:-1])) ** 0.5)

    state = nnx.state(model)
    nnx.update(model, jax.tree_util.tree_map_with_path(number, state))
    model.eval()
    return model


def distance(ours: Any, plain: Any) -> float:
    """The largest difference of all outputs, relative to the largest number of each."""
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    found = [0.0]
    for y, true in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert (y.shape, y.dtype) == (true.shape, true.dtype)
        y, true = (np.asarray(a).astype(np.complex128) for a in (y, true))
        finite = np.isfinite(true)
        np.testing.assert_array_equal(y[~finite], true[~finite])
        largest = np.abs(true[finite]).max(initial=0)
        off = np.abs(y[finite] - true[finite]).max(initial=0)
        found.append(off / largest if largest else off)
    return max(found)


def same(model: Callable[..., Any], *inputs: Any, **options: Any) -> Compiled:
    """`model`, compiled, after a comparison with jax.jit of it."""
    forward = caffe2flax.compile(model, **options)
    assert distance(forward(*inputs), jax.jit(model)(*inputs)) <= 2e-5
    return forward
