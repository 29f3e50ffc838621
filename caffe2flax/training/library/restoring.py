"""Caffe's snapshots, read: what a training script needs to go on from one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from caffe2flax.training.library.history import from_history
from caffe2flax.training.library.loop import set_named
from caffe2flax.training.library.moments import set_moments
from caffe2flax.training.library.snapshots import to_variable


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
