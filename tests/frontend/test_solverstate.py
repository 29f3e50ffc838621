"""Files that are no state of a solver, or not a whole one."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import caffe2flax
from caffe2flax import ConversionError
from tests.golden import FIXTURES
from tests.wireformat import chunk, floats, integer

BINARY = FIXTURES / "snapshots" / "adam_iter_10.solverstate"
HDF5 = FIXTURES / "snapshots" / "adam_iter_10.solverstate.h5"

BLOB = chunk(5, floats(1, 2, 3)) + chunk(7, chunk(1, b"\x03"))
WRONG = {
    "empty": (b"", "the file is empty"),
    "an npz": (b"PK\x03\x04....arr_0.npy", r"numpy archive.*give the \.solverstate"),
    "weights": (
        (FIXTURES / "snapshots" / "adam_iter_10.caffemodel").read_bytes(),
        r"a file of weights .*give the \.solverstate",
    ),
    "a net": (b'name: "x"\nlayer { }\n', r"a prototxt; give the \.solverstate"),
    "no iter": (chunk(3, BLOB), "holds no iter"),
    "negative": (integer(1, -1), "iter is -1 at byte 0"),
    "too large": (integer(1, 2**31), "iter is 2147483648"),
    "another field": (integer(1, 1) + integer(5, 1), "no field 5 of wire type 0, at"),
    "another type": (integer(1, 1) + integer(3, 1), "no field 3 of wire type 0, at"),
    "a shape without values": (
        integer(1, 1) + chunk(3, chunk(7, chunk(1, b"\x80\x80\x80\x80\x04"))),
        "history 0: shape .* but 0 are stored",
    ),
    "too few values": (
        integer(1, 1) + chunk(3, BLOB) + chunk(3, chunk(5, floats(1)), BLOB[-5:]),
        "history 1: shape",
    ),
    "a declared length": (integer(1, 1) + b"\x1a\xff\xff\xff\xff\x07", "declares"),
}


@pytest.mark.parametrize("name", WRONG)
def test_no_state(name: str, tmp_path: Path) -> None:
    data, message = WRONG[name]
    path = tmp_path / "x.solverstate"
    path.write_bytes(data)
    with pytest.raises(ConversionError, match=message):
        caffe2flax.read_solverstate(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="nowhere"):
        caffe2flax.read_solverstate(tmp_path / "nowhere")


def test_a_cut_file(tmp_path: Path) -> None:
    """An error, or an earlier part of the same history."""
    whole = caffe2flax.read_solverstate(BINARY)
    data, path = BINARY.read_bytes(), tmp_path / "cut.solverstate"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        try:
            found = caffe2flax.read_solverstate(path)
        except ConversionError:
            continue
        pairs = zip(found.history, whole.history, strict=False)
        assert all(np.array_equal(a, b) for a, b in pairs)


def removed(key: str) -> Callable[[h5py.File], None]:
    return lambda file: file.pop(key)


def replaced(key: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.pop(key, None)
        file[key] = value

    return change


HDF5_CHANGES = {
    "no iter": (removed("iter"), "it has no iter"),
    "no history": (removed("history"), "it has no iter and no group 'history'"),
    "a history with a gap": (removed("history/3"), "the history has the numbers 0, 1"),
    "a name for a number": (replaced("history/x", np.ones(2)), "that are no blobs: x"),
    "a group for a blob": (
        lambda file: file.create_group("history/99"),
        "that are no blobs: 99",
    ),
    "integers": (replaced("history/3", np.ones(2, np.int32)), "values of type int32"),
    "two iters": (replaced("iter", np.ones(2, np.int32)), "2 numbers, not one"),
    "no number": (replaced("iter", np.ones(1)), "no dataset of integers"),
    "negative": (replaced("iter", np.array([-1])), "it is -1"),
    "no text": (replaced("learned_net", np.ones(1)), "no dataset of one short string"),
    "a link elsewhere": (
        replaced("history/3", h5py.ExternalLink("/etc/passwd", "x")),
        "not followed",
    ),
    "more": (replaced("momentum", np.ones(1)), "it holds momentum besides"),
}


@pytest.mark.parametrize("name", HDF5_CHANGES)
def test_no_state_in_hdf5(name: str, tmp_path: Path) -> None:
    change, message = HDF5_CHANGES[name]
    path = tmp_path / "x.solverstate.h5"
    path.write_bytes(HDF5.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ConversionError, match=message):
        caffe2flax.read_solverstate(path)


def test_weights_in_hdf5_are_no_state() -> None:
    path = FIXTURES / "snapshots" / "adam_iter_10.caffemodel.h5"
    with pytest.raises(ConversionError, match="no state of a Caffe solver"):
        caffe2flax.read_solverstate(path)
