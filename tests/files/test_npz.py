"""Archives of arrays: they are read as written, and damaged ones are an error."""

import contextlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from caffe2flax.errors import ConversionError
from caffe2flax.files.npz import read_npz, write_npz

DTYPES = ("float16", "float32", "float64", "int32", "uint8", "bool", ">f4")


def npy(descr: str, shape: str, data: bytes = b"", version: int = 1) -> bytes:
    """A member as numpy.save writes it, with a header of our choice."""
    header = (
        f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    )
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


@given(
    st.dictionaries(
        st.sampled_from(["data", "file", "allow_pickle", "a/b", "naïve", "x.npy"]),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))
        ),
    )
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, given_arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("npz") / "any name"
    write_npz(path, given_arrays)
    with np.load(path, allow_pickle=False) as seen_by_numpy:
        for found in (read_npz(path), dict(seen_by_numpy)):
            assert found.keys() == given_arrays.keys()
            for name, array in given_arrays.items():
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_files_are_read(tmp_path: Path, save: object, order: str) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    assert callable(save)
    save(tmp_path / "a.npz", data=np.asarray(array, order=order))
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["data"], array)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (b"", "array 'a': "),
        (b"no array at all", "the magic string is not correct"),
        (
            npy("'<f4'", "(2,)", b"1234567"),
            "(2,) of float32 needs 8 bytes, 7 are there",
        ),
        (npy("'<f4'", "(2,)", b"123456789"), "needs 8 bytes, 9 are there"),
        (npy("'<f4'", "(100000, 100000, 100000)"), "needs 4000000000000000 bytes, 0"),
        (npy("'<f4'", "(-1, -2)", b"12345678"), "negative axis"),
        (npy("'|O'", "(1,)", b"12345678"), "holds object; expected numbers"),
        (npy("'<c8'", "(1,)", b"12345678"), "holds complex64; expected numbers"),
        (npy("[('x', '<f4')]", "(1,)", b"1234"), "expected numbers"),
        (npy("'<f4'", "1 +", b"1234"), "has a damaged header"),
        (npy("'<f4'", "(" * 5000, b"1234"), "has a damaged header"),
        (npy("'<f4'", "[[]]", b"1234"), "has a damaged header"),
        (npy("'<f4'", "(1,)", b"1234", version=3), "has format version (3, 0)"),
    ],
)
def test_a_bad_array_is_named(tmp_path: Path, member: bytes, said: str) -> None:
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member)
    with pytest.raises(ConversionError) as caught:
        read_npz(path)
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    assert problem.message.startswith("array 'a'")
    assert said in problem.message


def test_every_bad_array_is_named(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", a=np.array([{}]), good=np.ones(2), b=np.array(["text"])
    )
    with pytest.raises(ConversionError) as caught:
        read_npz(tmp_path / "a.npz")
    assert len(caught.value.problems) == 2


def archive_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(50.0), b=np.ones((2, 3), np.float32))
    return buffer.getvalue()


SOUND = archive_bytes()


@given(
    st.lists(
        st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=4
    ),
    st.integers(0, len(SOUND)),
)
def test_damage_is_refused_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(SOUND)
    for place, byte in changes:
        data[place] = byte
    path = tmp_path_factory.mktemp("npz") / "damaged.npz"
    path.write_bytes(data[:end] if end % 8 == 0 else data)
    found = {}
    with contextlib.suppress(ConversionError):
        found = read_npz(path)
    assert all(array.size <= 50 for array in found.values())


@pytest.mark.parametrize("claim", ["one huge member", "one member many times"])
def test_no_memory_is_taken_for_what_is_not_there(tmp_path: Path, claim: str) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy("'|u1'", f"({2**24},)", bytes(2**24)))
        if claim == "one huge member":
            archive.getinfo("a.npy").file_size = 2**33
        else:
            (member,) = archive.filelist
            archive.filelist *= 1000
            assert member.compress_size < 2**16
    tracemalloc.start()
    try:
        with pytest.raises(ConversionError, match=r"overlap|more bytes"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    write_npz(path, {"a": np.ones(2)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(path, {"a": np.zeros(2), "b": np.array([{}])})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_link_is_replaced_and_a_folder_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_npz(tmp_path / "link", {"a": np.ones(2)})
    assert not (tmp_path / "link").is_symlink()
    assert read_npz(tmp_path / "link").keys() == {"a"}
    assert not (tmp_path / "target").exists()
    with pytest.raises(OSError, match="not a regular file"):
        write_npz(tmp_path, {})
