"""What surrounds the steps of a training run: log, signals, devices, snapshots."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def arguments(description: str) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint"
    )
    start.add_argument("--snapshot", metavar="X.solverstate", help="go on from this")
    parser.add_argument(
        "--max-iter", type=int, metavar="N", help="stop after N updates in all"
    )
    parser.add_argument("--devices", type=int, metavar="N", help="use N devices")
    several = parser.add_argument_group("several processes")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    several.add_argument(
        "--processes", type=int, metavar="N", help="how many there are"
    )
    several.add_argument("--process", type=int, metavar="K", help="this one, from 0")
    return parser.parse_args()


class Log:
    """Lines as Caffe prints them, on stderr and in a .log; the .jsonl is JSON."""

    def __init__(self, prefix: Path, goes_on: bool):
        self.name, self.files = f"{prefix.name}_train.py", list[Any]()
        if jax.process_index() == 0:
            for suffix in ("log", "jsonl"):
                path = prefix.with_name(f"{prefix.name}_train.{suffix}")
                self.files.append(path.open("a" if goes_on else "w", encoding="utf-8"))

    def __call__(self, *lines: str, **entry: Any) -> None:
        if not self.files:
            return
        text, entries = self.files
        bar("")
        for line in lines:
            now = datetime.datetime.now()
            whole = f"I{now:%m%d %H:%M:%S.%f} {os.getpid():5} {self.name}:1] {line}"
            print(whole, file=text, flush=True)
            print(whole, file=sys.stderr, flush=True)
        if entry:
            print(json.dumps(entry), file=entries, flush=True)


def shown(
    net: str, outputs: Mapping[str, Any], weights: Mapping[str, float]
) -> tuple[list[str], list[dict[str, Any]]]:
    """A line and an entry for each number of a net's outputs, by name."""
    lines, entries = list[str](), list[dict[str, Any]]()
    for name in sorted(outputs):
        for number in np.ravel(outputs[name]):
            value, weight = float(number), weights.get(name, 0.0)
            entry: dict[str, Any] = {"name": name, "value": value}
            text = f"    {net} net output #{len(lines)}: {name} = {value:.6g}"
            if weight:
                entry |= {"weight": weight, "loss": weight * value}
                text += f" (* {weight:.6g} = {weight * value:.6g} loss)"
            lines.append(text)
            entries.append(entry)
    return lines, entries


def log_snapshot(log: Log, paths: tuple[Path, Path], kind: str) -> None:
    """The lines for a snapshot's weights and state, "binary" or "hdf5"."""
    what = {"binary": "binary proto", "hdf5": "HDF5"}[kind]
    texts = {"snapshot": "Snapshotting", "snapshot_state": "Snapshotting solver state"}
    for (entry, text), path in zip(texts.items(), paths, strict=True):
        line = f"{text} to {what} file {path}"
        log(line, kind=entry, file=path.name, format=kind)


def bar(text: str) -> None:
    """A line that the next one replaces, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Signals:
    """SIGINT asks for a snapshot and the end, SIGHUP for a snapshot, as in Caffe."""

    def __init__(self) -> None:
        self.ends = self.snapshots = False
        signal.signal(signal.SIGINT, self._interrupted)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hung_up)

    def _interrupted(self, *_: object) -> None:
        self.ends = True

    def _hung_up(self, *_: object) -> None:
        self.snapshots = True

    def wants_snapshot(self) -> bool:
        """Whether one was asked for since the last call."""
        wanted, self.snapshots = self.snapshots, False
        return wanted


def make_mesh(options: Any) -> Mesh:
    """All devices, or `--devices` of them, for the batch; of all processes that
    `--coordinator` joins."""
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.coordinator:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process
        )
    found = jax.devices()
    count = (options.devices or len(jax.local_devices())) * jax.process_count()
    if count > len(found):
        raise SystemExit(f"--devices {options.devices}: there are {len(found)}")
    mesh = jax.make_mesh((count,), ("data",), devices=found[:count])
    if options.coordinator:  # all meet now: gloo waits for none longer than 30 s
        ones = to_devices(mesh, {"ones": np.ones(count // jax.process_count())})["ones"]
        jax.block_until_ready(jax.jit(lambda x: x.sum())(ones))
    return mesh


def replicate(mesh: Mesh, *objects: Any) -> None:
    """Puts the variables of nnx objects on every device of `mesh`."""
    if mesh.size == 1:
        return
    everywhere = NamedSharding(mesh, PartitionSpec())
    for each in objects:
        state = nnx.state(each)
        nnx.update(each, jax.jit(lambda x: x, out_shardings=everywhere)(state))


def to_devices(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """A batch as arrays whose items lie on all devices; `batch` is this process's."""
    if mesh.size == 1:
        return {name: jax.numpy.asarray(array) for name, array in batch.items()}
    count = mesh.size // jax.process_count()
    for size in {len(array) for array in batch.values()}:
        if size % count:
            raise SystemExit(f"a batch of {size} cannot be shared by {count} devices")
    by_item = NamedSharding(mesh, PartitionSpec("data"))
    put: Any = jax.make_array_from_process_local_data
    return {name: put(by_item, np.asarray(array)) for name, array in batch.items()}


def mean_loss(numbers: Collection[Any]) -> float:
    """Of numbers that may still lie on a device."""
    return sum(map(float, numbers)) / len(numbers)


def mean_of(outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each element over batches, as Caffe's tests have it."""
    return {
        name: sum(np.asarray(each[name], np.float64) for each in outputs) / len(outputs)
        for name in outputs[0]
    }


class Watch:
    """Ends the run where a loss or a gradient is no number. It looks at a pass when it
    is given the next one, so that the devices are not waited for."""

    def __init__(self) -> None:
        self.pending: tuple[int, Any, Mapping[str, Any]] | None = None

    def __call__(self, i: int, total: Any, finite: Mapping[str, Any]) -> None:
        """finite: by parameter, in the net's order, whether its gradient is one."""
        self.finish()
        self.pending = i, total, finite

    def finish(self) -> None:
        """Looks at the last pass."""
        if self.pending is None:
            return
        i, total, finite = self.pending
        wrong = [name for name, good in finite.items() if not good]
        if math.isfinite(total) and not wrong:
            return
        where = f"; the gradient of {wrong[-1]} went first" if wrong else ""
        raise SystemExit(f"iteration {i}: the loss is {float(total):.6g}{where}")


def set_named(object_: Any, arrays: Mapping[str, Any]) -> None:
    """Puts arrays into an nnx object, by their paths."""
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(object_))]
    pairs = ((path, ".".join(map(str, path))) for path in paths)
    given = [(path, arrays[name]) for path, name in pairs if name in arrays]
    nnx.update(object_, nnx.from_flat_state(given))


def named(state: Any) -> dict[str, Any]:
    """The arrays of an nnx state by their paths: "conv1.kernel"."""
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): leaf[...] for path, leaf in flat}


class Checkpoints:
    """All that a run needs to go on, by iteration, written whole or not at all; the
    last two are kept."""

    def __init__(self, prefix: Path):
        folder = prefix.with_name(f"{prefix.name}_checkpoints").absolute()
        settings = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False
        )
        self.manager: Any = ocp.CheckpointManager(folder, options=settings)

    def __contains__(self, i: object) -> bool:
        return bool(self.manager.latest_step() == i)

    def save(
        self,
        i: int,
        state: Mapping[str, Any],
        rest: Mapping[str, Any],
        kept: Sequence[Any],
    ) -> None:
        """state: nnx objects. rest: what JSON can hold. kept: more arrays."""
        arrays = {name: jax.tree.leaves(nnx.state(x)) for name, x in state.items()}
        more = {"kept": ocp.args.StandardSave(list(kept))} if kept else {}
        self.manager.save(
            i,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                rest=ocp.args.JsonSave({**rest, "kept": len(kept)}),
                **more,
            ),
            force=True,
        )

    def restore(
        self, state: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any], list[Any]] | None:
        """The last one, its state into nnx objects; its iteration, rest and kept."""
        i = self.manager.latest_step()
        if i is None:
            return None
        arrays = {name: jax.tree.leaves(nnx.state(x)) for name, x in state.items()}
        found = self.manager.restore(
            i,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(arrays), rest=ocp.args.JsonRestore()
            ),
        )
        for name, each in state.items():
            tree = jax.tree.structure(nnx.state(each))
            nnx.update(each, jax.tree.unflatten(tree, found["state"][name]))
        kept = list[Any]()
        if found["rest"]["kept"]:
            args = ocp.args.Composite(kept=ocp.args.StandardRestore())
            kept = [*map(np.asarray, self.manager.restore(i, args=args)["kept"])]
        return i, found["rest"], kept
