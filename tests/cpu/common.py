"""Compiled modules beside plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import caffe2flax
from caffe2flax.cpu import onednn
from caffe2flax.cpu.compiled import Compiled

ONEDNN = all(
    onednn.available(what)  # type: ignore[arg-type]
    for what in ("convolution", "product", "packed")
)


def without_onednn(what: str) -> bool:
    """What `available` says where nothing is."""
    return False


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def distance(ours: Any, plain: Any) -> float:
    """The largest difference, of the largest number of an output; of all outputs."""
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
    """`model`, compiled, after it gave what jax.jit of it does."""
    forward = caffe2flax.compile(model, **options)
    assert distance(forward(*inputs), jax.jit(model)(*inputs)) <= 2e-5
    return forward
