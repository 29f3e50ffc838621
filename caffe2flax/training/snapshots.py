"""Snapshots in Caffe's formats: of the weights, and of a solver."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, closest, optional
from caffe2flax.files.atomic import Write, write_stream
from caffe2flax.frontend.solverstate import SolverState
from caffe2flax.training.blobs import learnable_blobs
from caffe2flax.training.library.history import from_history, to_history
from caffe2flax.training.library.snapshots import (
    proto_caffemodel,
    proto_solverstate,
    to_variable,
    write_hdf5_caffemodel,
    write_hdf5_solverstate,
)
from caffe2flax.training.table import Entry, Table, blob_table, entry_of, factor_name

if TYPE_CHECKING:
    from flax import nnx

Array = NDArray[Any]
Moments = Mapping[str, Mapping[str, Array]]
"""For each field of optax's states, the array of each variable by its path."""

HDF5 = ".h5"
"""How the name of a file ends that is written as HDF5."""

MAX_MESSAGE = 2**31 - 1
"""Bytes of the largest message of protobuf."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "SGD": ("trace",),
    "Nesterov": ("trace",),
    "AdaGrad": ("sum_of_squares",),
    "RMSProp": ("nu",),
    "AdaDelta": ("e_g", "e_x"),
    "Adam": ("mu", "nu"),
}
"""The fields of optax's states that are Caffe's history, by the solver's type: that is
as many lists of blobs, one behind the other."""


def save_caffemodel(
    model: nnx.Module, conversion: Conversion, path: str | os.PathLike[str]
) -> None:
    """Writes the weights of `model`, the module of `conversion`, as a .caffemodel that
    Caffe loads; as HDF5 where `path` ends in .h5.

    It has all layers of the net in `conversion`'s phase, and a shared blob under each
    of its layers. A file that is there is replaced, at once and whole. Raises
    ConversionError where a variable is no permutation of a blob or is missing, where a
    binary file would be too large for Caffe, and OSError where it cannot be written.
    """
    variables = arrays_of(model)
    table = blob_table(conversion, {n: x.shape for n, x in variables.items()})
    _check_variables(table, variables)
    table, variables = _with_factors(table, conversion, variables)
    name = conversion.graph.name
    if os.fspath(path).endswith(HDF5):
        _check_hdf5(table)
        write_hdf5(path, lambda out: write_hdf5_caffemodel(out, table, variables))
        return
    content = proto_caffemodel(name, table, variables)
    if len(content) > MAX_MESSAGE:
        text = (
            f"a .caffemodel of {len(content)} bytes, of which Caffe reads no more than"
        )
        raise ConversionError(f"{text} {MAX_MESSAGE}: a name that ends in .h5 is HDF5")
    write_stream(Path(path), lambda stream: stream.write(content))


def arrays_of(model: Any) -> dict[str, Array]:
    """The arrays of an nnx module by their paths, `conv1.kernel`; random states are
    left out."""
    from flax import nnx

    leaves = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in leaves}


def _with_factors(
    table: Table, conversion: Conversion, variables: dict[str, Array]
) -> tuple[Table, dict[str, Array]]:
    """The statistics of frozen BatchNorms that are still those of the weights' file as
    that has them, with a factor: they are not rounded once more."""
    weights, blobs = conversion.weights, learnable_blobs(conversion)
    originals: dict[str, Array] = {}
    for factor in blobs:
        divided = [blob for blob in blobs if blob.divisor == factor.key]
        names = [blob.variable for blob in divided]
        if not names or weights is None or factor.key not in conversion.blobs:
            continue
        if all(np.array_equal(weights[name], variables[name]) for name in names):
            originals[factor_name(factor)] = conversion.blobs[factor.key]
            for blob in divided:
                way: Any = entry_of(blob)[2:]
                original = conversion.blobs[blob.key]
                variable = to_variable(original, blob.variable_shape, *way)
                originals[blob.variable] = variable

    def entry(of: Entry) -> Entry:
        return of[:2] if of[0] in originals and None in of else of

    held = ((name, kind, tuple(map(entry, row))) for name, kind, row in table)
    return tuple(held), {**variables, **originals}


def _check_variables(table: Table, variables: Mapping[str, Array]) -> None:
    """Raises ConversionError for variables that the module lacks."""
    entries = dict.fromkeys(e for _, _, entries in table for e in entries)
    wanted = [str(entry[0]) for entry in entries if None not in entry]
    missing = [name for name in dict.fromkeys(wanted) if name not in variables]
    if missing:
        raise ConversionError(
            Problem(f"the module has no variable {name}{closest(name, variables)}")
            for name in missing
        )


def _check_hdf5(table: Table) -> None:
    """Raises ConversionError for names that HDF5 cannot hold."""
    names = [name for name, _, _ in table]
    wrong = [n for n in dict.fromkeys(names) if names.count(n) > 1 or not n]
    if wrong:
        raise ConversionError(
            Problem(f"{names.count(name)} layers are called {name!r}: not in HDF5")
            for name in wrong
        )


def write_hdf5(path: str | os.PathLike[str], write: Write) -> None:
    """Writes a file by a function that h5py takes part in."""
    with optional("an HDF5 file", "h5py", "hdf5", os.fspath(path)):
        import h5py  # noqa: F401
    write_stream(Path(path), write)


def write_solverstate(state: SolverState, path: str | os.PathLike[str]) -> None:
    """Writes the state of a solver as Caffe does; as HDF5 where `path` ends in .h5. A
    file that is there is replaced, at once and whole. OSError where it cannot be
    written."""
    parts = state.iter, state.learned_net, state.history, state.current_step
    if os.fspath(path).endswith(HDF5):
        write_hdf5(path, lambda out: write_hdf5_solverstate(out, *parts))
        return
    content = proto_solverstate(*parts)
    write_stream(Path(path), lambda stream: stream.write(content))


def moments_of(
    state: SolverState, conversion: Conversion, solver_type: str
) -> dict[str, dict[str, Array]]:
    """A history as optax's states hold it: field -> path of the variable -> array.

    All variables are there that are permutations of blobs, frozen ones and BatchNorm's
    statistics too. Raises ConversionError where the history is not that of such a
    solver and this net; of Nesterov and SGD, or of AdaDelta and Adam, or of AdaGrad,
    RMSProp and SGD, no file tells which it is.
    """
    fields = FIELDS[solver_type]
    blobs = learnable_blobs(conversion)
    count, wanted = len(state.history), len(fields) * len(blobs)
    if count != wanted:
        raise ConversionError(_another_solver(count, len(blobs), solver_type))
    problems = [
        Problem(
            f"the state's history has shape {array.shape} for blob {blob.index} of "
            f"layer {blob.layer!r}, the net's is {blob.shape}",
            blob.span,
        )
        for blob, array in zip(blobs * len(fields), state.history, strict=True)
        if array.size != prod(blob.shape)
    ]
    if problems:
        raise ConversionError(problems)
    shapes = {blob.variable: blob.variable_shape for blob in blobs if blob.variable}
    made = from_history(blob_table(conversion), state.history, shapes)
    return dict(zip(fields, made, strict=True))


def history_of(
    moments: Moments,
    conversion: Conversion,
    solver_type: str,
    kept: Sequence[Array] = (),
) -> tuple[Array, ...]:
    """The history that Caffe saves, in its order and axis order, of the fields of
    optax's states.

    A variable that a field lacks, as of a frozen blob, has the value of `kept`, the
    history that was restored, else 0. Raises ConversionError as `blob_table` does.
    """
    given = [moments[field] for field in FIELDS[solver_type]]
    return tuple(to_history(blob_table(conversion), given, kept))


def _another_solver(count: int, blobs: int, solver_type: str) -> str:
    """The message for a history of another length."""
    text = f"the state's history has {count} blobs; {solver_type} keeps "
    text += f"{len(FIELDS[solver_type]) * blobs} for the {blobs} of this net"
    others = [t for t, fields in FIELDS.items() if len(fields) * blobs == count]
    if others:
        return f"{text}: it is the state of another solver ({', '.join(others)})"
    return f"{text}: it is the state of another net"
