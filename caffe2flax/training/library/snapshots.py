"""Caffe's snapshots: its blobs, and the protobuf messages and HDF5 files that hold
them.

The table of a net says which blobs a layer has, and how a variable becomes one:

    BLOBS = (
        ("data", "Data", ()),
        (
            "conv1",
            "Convolution",
            (("conv1.kernel", (96, 3, 11, 11), (3, 2, 0, 1)), ("conv1.bias", (96,))),
        ),
    )

Behind the path of the variable stand the arguments of `to_blob`. BatchNorm's factor is
1 where the module lacks it, and `("bn1/2", (1,), None, ("bn1.mean", "bn1.var"))` names
the variables that are quotients by it.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def write_hdf5_caffemodel(
    file: Any,
    table: Any,
    variables: Mapping[str, NDArray[Any]],
    diffs: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """A .caffemodel.h5, a shared blob only under the first layer that has it, but the
    `diffs` under each, as in Caffe."""
    import h5py

    written: set[str] = set()
    with h5py.File(file, "w") as out:
        for layer, _, entries in table:
            group = out.create_group(f"data/{layer}")
            blobs = caffe_blobs(entries, variables)
            for i, (entry, blob) in enumerate(zip(entries, blobs, strict=True)):
                if entry[0] not in written:
                    group[str(i)] = blob
                written.add(entry[0])
            if diffs is not None:
                group = out.create_group(f"diff/{layer}")
                for i, diff in enumerate(caffe_diffs(entries, diffs)):
                    group[str(i)] = diff


def write_hdf5_solverstate(
    file: Any,
    updates: int,
    learned_net: str,
    history: Iterable[NDArray[Any]],
    current_step: int,
) -> None:
    """A .solverstate.h5, as `proto_solverstate`."""
    import h5py

    with h5py.File(file, "w") as out:
        out["iter"] = np.array([updates], np.int32)
        out["current_step"] = np.array([current_step], np.int32)
        if learned_net:
            text = learned_net.encode() + b"\0"  # Caffe looks for the end of it
            out["learned_net"] = np.array(text, f"S{len(text)}")
        group = out.create_group("history")
        for i, blob in enumerate(history):
            group[str(i)] = np.asarray(blob, np.float32)


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


def write_hdf5_snapshot(
    prefix: str | Path,
    updates: int,
    table: Any,
    variables: Mapping[str, NDArray[Any]],
    history: Sequence[NDArray[Any]],
    current_step: int = 0,
    diffs: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[Path, Path]:
    """`write_snapshot` as HDF5: .caffemodel.h5 and .solverstate.h5."""
    net = Path(f"{prefix}_iter_{updates}.caffemodel.h5")
    state = Path(f"{prefix}_iter_{updates}.solverstate.h5")
    out = io.BytesIO()
    write_hdf5_caffemodel(out, table, variables, diffs)
    replace_file(net, out.getvalue())
    out = io.BytesIO()
    write_hdf5_solverstate(out, updates, str(net), history, current_step)
    return net, replace_file(state, out.getvalue())
