"""Trainings that Caffe recorded, repeated by the module and the optimizer of a solver.

    python -m tests.training.trajectories ../shared/golden/solver

repeats all of a folder: one line a case, with the largest difference of a weight in
parts of what is allowed.
"""

import sys
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

import caffe2flax
from caffe2flax.runner import instantiate
from caffe2flax.training.blobs import LearnableBlob, learnable_blobs
from caffe2flax.training.library.moments import get_moments
from caffe2flax.training.snapshots import FIELDS, history_of
from caffe2flax.training.solver import read_solver

Array = NDArray[Any]
CHECKED = (1, 5, 20)
"""The numbers of updates after which weights are recorded."""


class RecordedDropout(nnx.Module):
    """Keeps what `mask` keeps."""

    def __init__(self, mask: Array, rate: float):
        self.mask = nnx.Variable(jnp.asarray(mask, jnp.float32))
        self.rate = rate

    def __call__(self, x: Any, **_: Any) -> Any:
        return x * self.mask[...] / (1 - self.rate)


@jax.numpy_dtype_promotion("standard")  # as optax and training scripts need it
def differences(folder: Path, name: str) -> dict[int, float]:
    """Updates -> the largest difference of a weight from Caffe's, in parts of
    max(1e-5, 10 * sensitivity20)."""
    recorded = dict(np.load(folder / f"{name}.npz"))
    solver = read_solver(folder / f"{name}.solver.prototxt")
    net = folder / f"{name}.net.prototxt"
    weights = folder / f"{name}.init.caffemodel"
    conversion = caffe2flax.convert(net, weights, phase="TRAIN")
    model: Any = instantiate(conversion)
    model.train()
    masks = {key[5:]: recorded[key] for key in recorded if key.startswith("mask:")}
    for layer, mask in masks.items():
        dropout = RecordedDropout(mask[0], getattr(model, layer).rate)
        setattr(model, layer, dropout)
    optimizer = nnx.Optimizer(model, solver.optimizer(conversion), wrt=nnx.Param)

    def loss(model: Any, batch: list[Any]) -> Any:
        outputs = model(*batch)
        return model.total_loss(outputs) if isinstance(outputs, dict) else outputs

    @nnx.jit
    def step(model: Any, optimizer: nnx.Optimizer[Any], batch: list[Any]) -> Any:
        total, gradients = nnx.value_and_grad(loss)(model, batch)
        optimizer.update(model, gradients)
        return total

    inputs = [recorded[p] for p in signature(model.__call__).parameters if p != "rngs"]
    found: dict[int, float] = {}
    passes = 0
    for updates in range(1, max(CHECKED) + 1):
        for _ in range(solver.iter_size):
            for layer, mask in masks.items():
                getattr(model, layer).mask[...] = jnp.asarray(mask[passes], jnp.float32)
            total = step(model, optimizer, [_batch(a, passes) for a in inputs])
            expected = recorded["loss"][passes]
            np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-5)
            passes += 1
        if updates in CHECKED:
            found[updates] = _difference(conversion, model, recorded, updates)
    _compare_history(conversion, optimizer.opt_state, recorded, solver)
    return found


def _compare_history(
    conversion: caffe2flax.Conversion,
    state: Any,
    recorded: Mapping[str, Array],
    solver: caffe2flax.Solver,
) -> None:
    """The optimizer's state is the history that Caffe would save."""
    fields = FIELDS[solver.type]
    moments = dict(zip(fields, get_moments(state, fields), strict=True))
    for i, blob in enumerate(history_of(moments, conversion, solver.type)):
        wanted = recorded[f"history20:{i}"].reshape(blob.shape)
        allowed = 1e-5 * float(np.abs(wanted).max())
        np.testing.assert_allclose(blob, wanted, rtol=0, atol=allowed)


def _batch(array: Array, passes: int) -> Array:
    batch: Array = array[passes % len(array)]
    return np.moveaxis(batch, 1, -1) if batch.ndim == 4 else batch


def _difference(
    conversion: caffe2flax.Conversion,
    model: Any,
    recorded: Mapping[str, Array],
    updates: int,
) -> float:
    variables = {
        ".".join(map(str, path)): np.asarray(variable[...])
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }
    largest = 0.0
    for blob in learnable_blobs(conversion):
        place = f"{blob.layer}:{blob.index}"
        wanted = recorded[f"iter{updates}:{place}"].reshape(blob.shape)
        sensitivity = recorded.get(f"sensitivity20:{place}", recorded["sensitivity20"])
        allowed = max(1e-5, 10 * float(sensitivity))
        got = _as_blob(blob, variables[blob.variable])
        largest = max(largest, float(np.abs(got - wanted).max()) / allowed)
    return largest


def _as_blob(blob: LearnableBlob, variable: Array) -> Array:
    assert blob.way is not None
    turned = variable.reshape(blob.way.dims).transpose(blob.way.axes)
    return turned.reshape(blob.shape)


def main() -> None:
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.npz")):
        found = differences(folder, path.stem)
        wrong = "" if max(found.values()) <= 1 else "  WRONG"
        print(path.stem, *(f"{v:.4f}" for v in found.values()), wrong, flush=True)


if __name__ == "__main__":
    main()
