"""What else digitslenet_train.py needs: log, devices, snapshots."""

import argparse
import ctypes
import datetime
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

# Layers with their blobs: variable, Caffe's shape, transposition of the axes.
# fmt: off
BLOBS = (
    ("data", "Data", ()),
    ("conv1", "Convolution", (("conv1.kernel", (8, 1, 5, 5), (3, 2, 0, 1)), ("conv1.bias", (8,)))),
    ("relu1", "ReLU", ()),
    ("pool1", "Pooling", ()),
    ("norm1", "LRN", ()),
    ("conv2", "Convolution", (("conv2.kernel", (16, 4, 5, 5), (3, 2, 0, 1)), ("conv2.bias", (16,)))),
    ("relu2", "ReLU", ()),
    ("pool2", "Pooling", ()),
    ("ip1", "InnerProduct", (("ip1.kernel", (48, 784), (3, 2, 0, 1), (7, 7, 16, 48)), ("ip1.bias", (48,)))),
    ("relu3", "ReLU", ()),
    ("drop3", "Dropout", ()),
    ("ip2", "InnerProduct", (("ip2.kernel", (10, 48), (1, 0)), ("ip2.bias", (10,)))),
    ("loss", "SoftmaxWithLoss", ()),
)
# fmt: on

HISTORY = ("trace",)


def save_snapshot(
    prefix: Path, i: int, model: nnx.Module, optimizer: Any, kept: Any, step: int
) -> tuple[Path, Path]:
    """Writes a snapshot as Caffe does, and returns the paths of its two files.

    kept: the history of the snapshot that the run goes on from. step: Caffe's count of
    steps of the learning rate.
    """
    moments = get_moments(optimizer.opt_state, HISTORY)
    saved = i, BLOBS, arrays_of(model), to_history(BLOBS, moments, kept), step
    return write_snapshot(prefix, "DigitsLeNet", *saved)


def restore_snapshot(
    path: str, model: nnx.Module, optimizer: Any
) -> tuple[int, tuple[int, int], list[Any]]:
    """See `restore`."""
    return restore(path, BLOBS, HISTORY, model, optimizer)


def jitted(step: Callable[..., Any]) -> Callable[..., Any]:
    """nnx.jit, the model and the optimizer donated; by caffe2flax, where it is there,
    which compiles to faster code on one CPU, and else is the same."""
    try:
        from caffe2flax import compile
    except ImportError:
        return nnx.jit(step, donate_argnums=(0, 1))
    return compile(step, donate_argnums=(0, 1))


def learnable_blobs_of(table: Any) -> dict[str, tuple[Any, ...]]:
    """What the table says of each blob, shared ones once: the order of a history."""
    found: dict[str, tuple[Any, ...]] = {}
    for _, _, entries in table:
        for path, *how in entries:
            found.setdefault(path, tuple(how))
    return found


def to_history(
    table: Any, moments: Sequence[Mapping[str, Any]], kept: Sequence[Any] = ()
) -> list[NDArray[np.float32]]:
    """Caffe's history: of each moment the blobs, in Caffe's order. Where a moment has
    no such variable, the blob is that of `kept`, an earlier history, else 0."""
    history: list[NDArray[np.float32]] = []
    for moment in moments:
        for path, (shape, *how) in learnable_blobs_of(table).items():
            if path in moment:
                blob = to_blob(np.asarray(moment[path]), shape, *how)
            elif kept:
                blob = np.asarray(kept[len(history)], np.float32).reshape(shape)
            else:
                blob = np.zeros(shape, np.float32)
            history.append(blob)
    return history


def from_history(
    table: Any, history: Sequence[Any], shapes: Mapping[str, Sequence[int]]
) -> list[dict[str, NDArray[np.float32]]]:
    """The moments of Caffe's history, by the paths of the variables, whose shapes are
    given. Raises ValueError where it is that of another net."""
    blobs = learnable_blobs_of(table)
    if not blobs or len(history) % len(blobs):
        text = f"the history has {len(history)} blobs, the net has {len(blobs)}"
        raise ValueError(text)
    wanted = list(blobs.items()) * (len(history) // len(blobs))
    for (path, (shape, *_)), blob in zip(wanted, history, strict=True):
        if np.size(blob) != np.prod(shape, dtype=int):
            text = f"{path}: shape {np.shape(blob)} in the history, not {shape}"
            raise ValueError(text)
    return [
        {
            path: to_variable(history[start + i], shapes[path], *how)
            for i, (path, (_, *how)) in enumerate(blobs.items())
            if path in shapes
        }
        for start in range(0, len(history), len(blobs))
    ]


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


def keep_memory() -> None:
    """Makes this process keep the memory that a step frees for the next one, where its
    malloc is glibc's. By default large blocks go back to the system, which clears their
    pages for each step anew: a gigabyte and a third of the time for ResNet-50."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX: one heap that does not shrink.
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):
        mallopt(option, value)


def place_in(path: Sequence[Any]) -> tuple[str, str]:
    """A leaf of an optimizer's state: the field it is in, and its variable."""
    names = [getattr(key, "name", "") for key in path]
    field = max((i for i, name in enumerate(names) if name not in ("", "value")))
    keys = [getattr(key, "key", getattr(key, "idx", "")) for key in path[field + 1 :]]
    return names[field], ".".join(str(key) for key in keys if key != "")


def get_moments(opt_state: Any, fields: Sequence[str]) -> list[dict[str, Any]]:
    """What the state of an optimizer holds in these fields, by variables."""
    found: dict[str, dict[str, Any]] = {field: {} for field in fields}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        field, variable = place_in(path)
        if field in found:
            found[field][variable] = leaf
    return list(found.values())


def set_moments(
    opt_state: Any,
    fields: Sequence[str],
    moments: Sequence[Mapping[str, Any]],
    updates: int,
) -> Any:
    """The state of an optimizer with these moments, after so many updates. Raises
    ValueError where it has more or fewer."""
    if len(moments) != len(fields):
        text = f"the history has {len(moments)} moments, the solver {len(fields)}"
        raise ValueError(f"{text}: it is the state of another solver")
    given = dict(zip(fields, moments, strict=True))

    def leaf(path: Sequence[Any], old: Any) -> Any:
        field, variable = place_in(path)
        if field in ("count", "gradient_step"):
            return jnp.asarray(updates, old.dtype)
        return jnp.asarray(given[field][variable]) if field in given else old

    return jax.tree_util.tree_map_with_path(leaf, opt_state)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place of a protobuf message, and the place behind it."""
    value = shift = 0
    while at < len(data):
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
    raise ValueError("the file ends early")


def proto_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: a number, or the bytes of
    whatever else it is. Raises ValueError where it is no message."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = read_varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = read_varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(kind, len(data))
        if size > len(data) - at:
            raise ValueError("this is no file of Caffe's, or not all of it")
        yield number, data[at : at + size]
        at += size


def parse_blob(data: bytes) -> NDArray[np.float32]:
    """The array of a BlobProto."""
    fields: dict[int, list[Any]] = {number: [] for number in range(1, 8)}
    for number, value in proto_fields(data):
        fields.setdefault(number, []).append(value)
    dims = [(fields[number] or [0])[-1] for number in (1, 2, 3, 4)]
    if not any(dims):  # newer files have a list of any length instead
        packed = b"".join(v for shape in fields[7] for _, v in proto_fields(shape))
        at, dims = 0, []
        while at < len(packed):
            dim, at = read_varint(packed, at)
            dims.append(dim)
    return np.frombuffer(b"".join(fields[5]), "<f4").reshape(dims)


class SolverState(NamedTuple):
    """What Caffe saves of a solver: the number of updates, the file of the weights, the
    history of its update rule, and the steps of a multistep rate so far."""

    updates: int
    learned_net: str
    history: list[NDArray[np.float32]]
    current_step: int


def read_solverstate(path: str | Path) -> SolverState:
    """A .solverstate or .solverstate.h5. Raises ValueError for other files."""
    data = Path(path).read_bytes()
    if data.startswith(b"\x89HDF"):
        import h5py

        with h5py.File(path) as file:
            group = file["history"]
            history = [group[str(i)][()] for i in range(len(group))]
            net = file["learned_net"][()].decode() if "learned_net" in file else ""
            step = int(file["current_step"][0]) if "current_step" in file else 0
            return SolverState(int(file["iter"][0]), net, history, step)
    fields: dict[int, list[Any]] = {1: [0], 2: [b""], 3: [], 4: [0]}
    for number, value in proto_fields(data):
        fields.setdefault(number, []).append(value)
    history = [parse_blob(blob) for blob in fields[3]]
    return SolverState(fields[1][-1], fields[2][-1].decode(), history, fields[4][-1])


def read_caffemodel(path: str | Path) -> dict[str, dict[int, NDArray[np.float32]]]:
    """The blobs of a .caffemodel or .caffemodel.h5 by layer, then by number. Raises
    ValueError for other files."""
    data = Path(path).read_bytes()
    layers: dict[str, dict[int, NDArray[np.float32]]] = {}
    if data.startswith(b"\x89HDF"):
        import h5py

        with h5py.File(path) as file:
            for name, group in file["data"].items():
                layers[name] = {int(i): group[i][()] for i in group}
        return layers
    for number, layer in proto_fields(data):
        if number == 100:
            fields = list(proto_fields(layer))
            name = next((value.decode() for n, value in fields if n == 1), "")
            blobs = [parse_blob(value) for n, value in fields if n == 7]
            layers.setdefault(name, dict(enumerate(blobs)))
    return layers


def from_caffemodel(
    table: Any,
    layers: Mapping[str, Mapping[int, NDArray[Any]]],
    shapes: Mapping[str, Sequence[int]],
) -> dict[str, NDArray[np.float32]]:
    """The variables of these shapes, by their paths, of the layers of a file; those of
    layers that it lacks are left out. Raises ValueError where a layer has other blobs
    than the net's."""
    found: dict[str, NDArray[np.float32]] = {}
    for layer, _, entries in table:
        blobs = layers.get(layer, {})
        if blobs and max(blobs) >= len(entries):
            text = f"layer {layer!r} has {len(blobs)} blobs, the net's {len(entries)}"
            raise ValueError(text)
        for (path, shape, *how), blob in [(entries[i], blobs[i]) for i in blobs]:
            if blob.size != np.prod(shape, dtype=int):
                text = f"layer {layer!r}: shape {blob.shape}, the net's {shape}"
                raise ValueError(text)
            if None not in how:
                found[path] = to_variable(blob, shapes[path], *how)
        for (_, _, *how), blob in [(entries[i], blobs[i]) for i in blobs]:
            if None in how:  # BatchNorm's factor, by which Caffe divides
                share = np.float32(1 / blob[0] if blob[0] else 0)
                found |= {path: found[path] * share for path in how[-1]}
    return found


def restore(
    path: str, table: Any, fields: Sequence[str], model: nnx.Module, optimizer: Any
) -> tuple[int, tuple[int, int], list[Any]]:
    """Goes on from a snapshot of Caffe's: puts its weights and its history into the
    model and the optimizer. The updates so far, where the count of steps begins, and
    the history. A state that names no weights leaves those of the model. SystemExit
    where it is that of another net or solver."""
    variables = arrays_of(model)
    shapes = {name: array.shape for name, array in variables.items()}
    try:
        state = read_solverstate(path)
        moments, i = from_history(table, state.history, shapes), state.updates
        opt_state = set_moments(optimizer.opt_state, fields, moments, i)
        check_squares(fields, state.history)
        given: Mapping[str, Any] = {}
        if state.learned_net:
            named = Path(state.learned_net)
            places = [named, Path(path).parent / named.name]
            net = next((place for place in places if place.is_file()), places[-1])
            given = from_caffemodel(table, read_caffemodel(net), shapes)
    except (ValueError, OSError) as error:
        raise SystemExit(f"--snapshot {path}: {error}") from error
    set_named(model, given)
    optimizer.opt_state = opt_state
    return i, (i, state.current_step), state.history


def least_of(
    fields: Sequence[str], history: Sequence[Any], signed: bool
) -> list[float]:
    """The least number of the history in each field of optax's states that is a mean or
    sum of squares, or `signed`, of those that are not."""
    count = len(history) // len(fields)
    parts = [history[n * count : (n + 1) * count] for n in range(len(fields))]
    return [
        min((float(np.min(blob)) for blob in part if np.size(blob)), default=0.0)
        for field, part in zip(fields, parts, strict=True)
        if (field in ("trace", "mu")) is signed
    ]


def check_squares(fields: Sequence[str], history: Sequence[Any]) -> None:
    """ValueError where a mean of squares is negative: its root would be no number."""
    if min(least_of(fields, history, False), default=0) < 0:
        text = "the history has negative numbers where this solver has squares"
        raise ValueError(f"{text}: it is the state of another solver")


def doubts(fields: Sequence[str], history: Sequence[Any]) -> list[str]:
    """Why a state may be that of another solver, as no file says whose it is."""
    found, (kind, *_) = [], fields
    if len(fields) == 1:
        names = "SGD and Nesterov" if kind == "trace" else "AdaGrad and RMSProp"
        found.append(f"note: the states of {names} look alike; this may be of either")
    least = least_of(fields, history, True)
    if least and min(least) >= 0 and any(np.any(blob) for blob in history):
        text = "the history has no negative number: it may be that of another solver"
        found.append(f"note: {text}")
    return found


def arrays_of(model: nnx.Module) -> dict[str, NDArray[Any]]:
    """The arrays of a model by their paths: "conv1.kernel"."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


def by_multipliers(
    rule: Callable[[float, float], optax.GradientTransformation],
    multipliers: Mapping[str, tuple[float, float]],
) -> optax.GradientTransformation:
    """`rule(lr_mult, decay_mult)` for each variable, with the multipliers of the first
    pattern that its path fits."""

    def label(path: tuple[Any, ...], _: Array) -> str:
        name = ".".join(str(part.key) for part in path if hasattr(part, "key"))
        return str(next(m for p, m in multipliers.items() if fnmatchcase(name, p)))

    rules = {str(pair): rule(*pair) for pair in multipliers.values()}
    return optax.partition(rules, lambda w: jax.tree.map_with_path(label, w))


def to_blob(
    variable: NDArray[Any] | None,
    shape: Sequence[int],
    axes: Sequence[int] | None = (),
    *dims: Sequence[int],
) -> NDArray[np.float32]:
    """Caffe's blob of a variable that is reshaped to `dims`, then transposed by `axes`.

    An axis of negative extent runs backwards. Where there are several `dims`, they are
    those of parts of the rows, which become columns. A blob without a variable is 1.
    """
    if variable is None:
        return np.ones(shape, np.float32)
    x = np.asarray(variable, np.float32)
    if len(dims) > 1:
        ends = np.cumsum([np.prod(each[:-1]) for each in dims])
        parts = zip(np.split(x, ends[:-1]), dims, strict=True)
        columns = [to_blob(part, (shape[0], -1), axes, each) for part, each in parts]
        return np.concatenate(columns, 1)
    for each in dims:
        x = x.reshape(np.abs(each))[tuple(slice(None, None, np.sign(n)) for n in each)]
    return (x.transpose(axes) if axes else x).reshape(shape)


def to_variable(
    blob: NDArray[Any],
    shape: Sequence[int],
    axes: Sequence[int] | None = (),
    *dims: Sequence[int],
) -> NDArray[np.float32]:
    """The variable of this shape that `to_blob` turns into `blob`."""
    x = np.asarray(blob, np.float32)
    if len(dims) > 1:
        ends = np.cumsum([np.prod(each[:-1]) for each in dims])
        parts = zip(np.split(x.reshape(-1, ends[-1]), ends[:-1], 1), dims, strict=True)
        rows = [to_variable(part, (-1, shape[1]), axes, each) for part, each in parts]
        return np.concatenate(rows)
    between = dims[0] if dims else shape
    axes = axes or range(len(between))
    x = x.reshape([abs(between[i]) for i in axes]).transpose(np.argsort(axes))
    return x[tuple(slice(None, None, np.sign(n)) for n in between)].reshape(shape)


def caffe_blobs(
    entries: Any, variables: Mapping[str, NDArray[Any]]
) -> Iterator[NDArray[np.float32]]:
    """The blobs of a layer of the table; `variables` by their paths."""
    for path, shape, *how in entries:
        yield to_blob(None if None in how else variables[path], shape, *how)


def proto_varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def proto_field(number: int, value: int | bytes | str) -> bytes:
    """A field of a protobuf message: a number, or a string or message of bytes."""
    if isinstance(value, int):
        return proto_varint(number << 3) + proto_varint(value)
    value = value.encode() if isinstance(value, str) else value
    return proto_varint(number << 3 | 2) + proto_varint(len(value)) + value


def caffe_diffs(
    entries: Any, diffs: Mapping[str, NDArray[Any]]
) -> Iterator[NDArray[np.float32]]:
    """What was subtracted last from each blob of a layer of the table; 0 from those
    that are not trained."""
    for path, shape, *how in entries:
        trained = path in diffs
        yield to_blob(diffs[path], shape, *how) if trained else np.zeros(shape, "f4")


def proto_blob(blob: NDArray[Any], diff: NDArray[Any] | None = None) -> bytes:
    """A BlobProto: the values, the diff if it is given, the shape."""
    dims = b"".join(proto_varint(n) for n in blob.shape)
    shape = proto_field(1, dims) if dims else b""
    pairs = ((5, blob), (6, diff))
    arrays = ((n, np.ascontiguousarray(x, "<f4")) for n, x in pairs if x is not None)
    values = b"".join(proto_field(n, x.tobytes()) for n, x in arrays)
    return values + proto_field(7, shape)


def proto_caffemodel(
    name: str,
    table: Any,
    variables: Mapping[str, NDArray[Any]],
    diffs: Mapping[str, NDArray[Any]] | None = None,
) -> bytes:
    """A .caffemodel: all layers of the table, a shared blob under each of them; with
    the `diffs` of the last update, by variable, where they are given."""
    message = [proto_field(1, name)]
    for layer, kind, entries in table:
        fields = [proto_field(1, layer), proto_field(2, kind)]
        blobs = caffe_blobs(entries, variables)
        last = repeat(None) if diffs is None else caffe_diffs(entries, diffs)
        pairs = zip(blobs, last, strict=False)
        fields += [proto_field(7, proto_blob(blob, diff)) for blob, diff in pairs]
        message.append(proto_field(100, b"".join(fields)))
    return b"".join(message)


def proto_solverstate(
    updates: int, learned_net: str, history: Iterable[NDArray[Any]], current_step: int
) -> bytes:
    """A .solverstate after so many updates; `learned_net` is the weights' file."""
    message = [proto_field(1, updates)]
    message += [proto_field(2, learned_net)] if learned_net else []
    message += [proto_field(3, proto_blob(blob)) for blob in history]
    return b"".join([*message, proto_field(4, current_step)])


def write_snapshot(
    prefix: str | Path,
    name: str,
    updates: int,
    table: Any,
    variables: Mapping[str, NDArray[Any]],
    history: Sequence[NDArray[Any]],
    current_step: int = 0,
    diffs: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[Path, Path]:
    """Writes PREFIX_iter_T.caffemodel and .solverstate of the net `name`, each whole or
    not at all, and returns their paths."""
    net, state = (
        Path(f"{prefix}_iter_{updates}.{kind}")
        for kind in ("caffemodel", "solverstate")
    )
    replace_file(net, proto_caffemodel(name, table, variables, diffs))
    content = proto_solverstate(updates, str(net), history, current_step)
    return net, replace_file(state, content)


def replace_file(path: Path, content: bytes) -> Path:
    """Writes a file beside `path` first, so that what is there stays whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    return part.replace(path)
