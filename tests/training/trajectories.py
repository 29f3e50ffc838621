"""Trainings that Caffe recorded, repeated by the module and the optimizer of a solver.

    python -m tests.training.trajectories ../shared/golden/solver
    python -m tests.training.trajectories ../shared/golden/snapshots

repeats all of a folder, with snapshots from its solver states on: one line a case, with
the largest difference of a weight in parts of what is allowed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
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
from caffe2flax.training.blobs import learnable_blobs
from caffe2flax.training.library.history import to_history
from caffe2flax.training.library.moments import get_moments, set_moments
from caffe2flax.training.snapshots import FIELDS, moments_of
from caffe2flax.training.table import blob_table

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


@dataclass
class Training:
    """A recorded run: the module with its optimizer, and what Caffe computed."""

    solver: caffe2flax.Solver
    conversion: caffe2flax.Conversion
    recorded: dict[str, Array]
    start: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        self.model: Any = instantiate(self.conversion)
        self.model.train()
        masks = [key for key in self.recorded if key.startswith("mask:")]
        self.masks = {key.removeprefix("mask:"): self.recorded[key] for key in masks}
        for layer, mask in self.masks.items():
            dropout = RecordedDropout(mask[0], getattr(self.model, layer).rate)
            setattr(self.model, layer, dropout)
        made = self.solver.optimizer(self.conversion, self.start, self.step)
        self.optimizer = nnx.Optimizer(self.model, made, wrt=nnx.Param)
        parameters = signature(self.model.__call__).parameters
        self.inputs = [self.recorded[name] for name in parameters if name != "rngs"]

    def restore(self, state: caffe2flax.SolverState) -> None:
        """Goes on from a solver state."""
        fields = FIELDS[self.solver.type]
        moments = moments_of(state, self.conversion, self.solver.type)
        given = [moments[field] for field in fields]
        old = self.optimizer.opt_state
        self.optimizer.opt_state = set_moments(old, fields, given, state.iter)

    def update(self, updates: int) -> None:
        """The update after so many others."""
        for i in range(self.solver.iter_size):
            passes = updates * self.solver.iter_size + i
            for layer, mask in self.masks.items():
                kept = jnp.asarray(mask[passes], jnp.float32)
                getattr(self.model, layer).mask[...] = kept
            batch = [_channels_last(x[passes % len(x)]) for x in self.inputs]
            total = _pass(self.model, self.optimizer, batch)
            if passes < len(self.recorded.get("loss", ())):
                expected = self.recorded["loss"][passes]
                np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-5)

    def difference(self, key: str) -> float:
        """The largest difference of a weight from Caffe's, in parts of
        max(1e-5, 10 * sensitivity20)."""
        table = blob_table(self.conversion)
        variables = {
            ".".join(map(str, path)): variable[...]
            for path, variable in nnx.to_flat_state(nnx.state(self.model))
        }
        blobs = learnable_blobs(self.conversion)
        largest = 0.0
        for blob, found in zip(blobs, to_history(table, [variables]), strict=True):
            place = f"{blob.layer}:{blob.index}"
            wanted = self.recorded[f"{key}:{place}"].reshape(blob.shape)
            every = self.recorded.get("sensitivity20", np.float32(0))
            sensitivity = self.recorded.get(f"sensitivity20:{place}", every)
            allowed = max(1e-5, 10 * float(sensitivity))
            largest = max(largest, float(np.abs(found - wanted).max()) / allowed)
        return largest

    def compare_history(self, key: str) -> None:
        """The optimizer's state is the history that Caffe would save."""
        moments = get_moments(self.optimizer.opt_state, FIELDS[self.solver.type])
        history = to_history(blob_table(self.conversion), moments)
        for i, blob in enumerate(history):
            wanted = self.recorded[f"{key}:{i}"].reshape(blob.shape)
            allowed = 1e-5 * float(np.abs(wanted).max())
            np.testing.assert_allclose(blob, wanted, rtol=0, atol=allowed)


@nnx.jit
def _pass(model: Any, optimizer: Any, batch: list[Any]) -> Any:
    def loss(model: Any) -> Any:
        outputs = model(*batch)
        return model.total_loss(outputs) if isinstance(outputs, dict) else outputs

    total, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return total


def _channels_last(batch: Array) -> Array:
    return np.moveaxis(batch, 1, -1) if batch.ndim == 4 else batch


@jax.numpy_dtype_promotion("standard")  # as optax and training scripts need it
def differences(folder: Path, name: str) -> list[float]:
    """`Training.difference` after 1, 5 and 20 updates."""
    net = folder / f"{name}.net.prototxt"
    weights = folder / f"{name}.init.caffemodel"
    training = Training(
        caffe2flax.read_solver(folder / f"{name}.solver.prototxt"),
        caffe2flax.convert(net, weights, phase="TRAIN"),
        dict(np.load(folder / f"{name}.npz")),
    )
    found = []
    for updates in range(max(CHECKED)):
        training.update(updates)
        if updates + 1 in CHECKED:
            found.append(training.difference(f"iter{updates + 1}"))
    training.compare_history("history20")
    return found


@jax.numpy_dtype_promotion("standard")
def resumed(folder: Path, name: str, state_file: str = "") -> float:
    """`Training.difference` after ten updates from the solver state at ten."""
    facts = json.loads((folder / "index.json").read_text())[name]
    state = caffe2flax.read_solverstate(
        folder / (state_file or f"{name}_iter_10.solverstate")
    )
    net = folder / f"{name}.net.prototxt"
    weights = folder / f"{name}_iter_10.caffemodel"
    recorded = dict(np.load(folder / f"{name}.npz"))
    recorded.pop("loss", None)
    training = Training(
        caffe2flax.read_solver(folder / facts.get("resume", f"{name}.solver.prototxt")),
        caffe2flax.convert(net, weights, phase="TRAIN"),
        recorded,
        state.iter,
        state.current_step,
    )
    training.restore(state)
    for updates in range(10, 20):
        training.update(updates)
    if "history20:0" in recorded:
        training.compare_history("history20")
    return training.difference("resumed20")


def main() -> None:
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.npz")):
        snapshots = (folder / f"{path.stem}_iter_10.solverstate").exists()
        found = (
            [resumed(folder, path.stem)]
            if snapshots
            else differences(folder, path.stem)
        )
        wrong = "" if max(found) <= 1 else "  WRONG"
        print(path.stem, *(f"{value:.4f}" for value in found), wrong, flush=True)


if __name__ == "__main__":
    main()
