"""Databases, lists and files that are no such things: an error with the file."""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.training.library.datum import read_datum, read_mean
from tests.golden import FIXTURES
from tests.wireformat import chunk, dims, floats, integer, varint

pytest.importorskip("grain")
DATA = FIXTURES / "data"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_datum(record: bytes) -> None:
    with suppress(ValueError, OSError):
        image, label = read_datum(record)
        assert image.ndim == 3
        assert isinstance(label, int)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        integer(1, 3) + integer(2, 2) + integer(3, 2),
        integer(1, 3) + integer(2, 2) + integer(3, 2) + chunk(4, bytes(11)),
        integer(1, 2**64 - 1) + integer(2, 2**64 - 1) + integer(3, 1) + chunk(4, b"x"),
        integer(1, 2**40) + integer(2, 2**40) + integer(3, 2**40) + chunk(4, b"x"),
        integer(1, 1) + integer(2, 1) + integer(3, 1) + chunk(6, b"xyz"),
        chunk(4, b"no image") + integer(7, 1),
        b"\x22" + varint(2**62) + b"x",
        b"\xff" * 20,
        b"\x0b\x0c",
    ],
)
def test_a_damaged_datum_is_refused(record: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        read_datum(record)


def test_a_negative_label_and_floats() -> None:
    values = chunk(6, np.arange(4, dtype="<f4").tobytes())
    record = integer(1, 4) + integer(2, 1) + integer(3, 1) + integer(5, 2**64 - 7)
    image, label = read_datum(record + values)
    assert label == -7
    assert image.tolist() == [[[0, 1, 2, 3]]]


@pytest.mark.parametrize("shape", [dims(2, 1, 2), dims(1, 2, 1, 2)])
def test_mean_files(shape: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(shape + chunk(5, floats(1, 2, 3, 4)))
    assert read_mean(str(path)).tolist() == [[[1, 3], [2, 4]]]
    path.write_bytes(shape + chunk(5, floats(1, 2, 3)))
    with pytest.raises(ValueError, match=r"mean\.binaryproto: 3 values"):
        read_mean(str(path))


def damaged(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


DAMAGE: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "no LMDB": ("data_rgb_test", "raw_rgb.lmdb/data.mdb", lambda _: b"x" * 9000),
    "empty LMDB": ("data_rgb_test", "raw_rgb.lmdb/data.mdb", lambda _: b""),
    "LMDB cut off": ("data_rgb_test", "raw_rgb.lmdb/data.mdb", lambda b: b[:8192]),
    "no LevelDB": ("data_leveldb", "raw_rgb.leveldb/CURRENT", lambda _: b"nothing\n"),
    "LevelDB cut off": ("data_leveldb", "raw_rgb.leveldb/000005.ldb", lambda b: b[:99]),
    "list cut off": ("image_resize", "list.txt", lambda b: b[:20]),
    "list of bytes": ("image_resize", "list.txt", lambda _: b"\xff\xfe\x00 1\n"),
    "empty list": ("image_resize", "list.txt", lambda _: b""),
    "image cut off": ("image_resize", "images/a.png", lambda b: b[:200]),
    "no image": ("image_resize", "images/a.png", lambda _: b"%!PS quit"),
    "windows cut off": ("window_warp", "windows.txt", lambda b: b[:40]),
    "no windows": ("window_warp", "windows.txt", lambda _: b""),
    "no HDF5": ("hdf5_types", "one.h5", lambda _: b"\x89HDF no"),
    "HDF5 cut off": ("hdf5_types", "one.h5", lambda b: b[:2000]),
    "mean cut off": ("data_mean_file_crop", "mean_rgb.binaryproto", lambda b: b[:99]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    case, file, change = DAMAGE[name]
    folder = shutil.copytree(DATA, tmp_path / "data")
    damaged(folder / file, change)
    with pytest.raises(ConversionError) as caught:
        caffe2flax.data(folder / f"{case}.prototxt", "TEST")
    assert caught.value.problems[0].line == 2


def test_a_damaged_record_is_named_when_it_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA, tmp_path / "data")
    damaged(folder / "images" / "s4.png", lambda b: b[:100])
    batches = iter(caffe2flax.data(folder / "image_same.prototxt", "TEST"))
    with pytest.raises(ValueError, match=r"s4\.png: "):
        [next(batches) for _ in range(3)]


@pytest.mark.parametrize(
    ("package", "case", "text"),
    [
        ("grain", "data_rgb_test", "grain: pip install 'caffe2flax[train]'"),
        ("lmdb", "data_rgb_test", "lmdb: pip install 'caffe2flax[data]'"),
        ("h5py", "hdf5_types", "h5py: pip install 'caffe2flax[data]'"),
        ("PIL", "image_same", "pillow: pip install 'caffe2flax[data]'"),
        ("plyvel", "data_leveldb", "plyvel: pip install 'caffe2flax[data]'"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, case: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(DATA, tmp_path / "data")
    for name in list(sys.modules):
        if name.startswith("caffe2flax.training.library."):
            monkeypatch.delitem(sys.modules, name)
    for name in (package, f"{package}_next"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(ConversionError) as caught:
        caffe2flax.data(folder / f"{case}.prototxt", "TEST")
    assert text in str(caught.value)


def test_names_in_a_net_are_no_code(tmp_path: Path) -> None:
    """The text of the function is run: what comes out of files stands in literals."""
    top = 'x\'] or 1/0 #\\"\\"\\"\\n1/0'
    folder = shutil.copytree(DATA, tmp_path / "{1/0} '\"")
    net = folder / "net.prototxt"
    text = (folder / "data_keys.prototxt").read_text()
    net.write_text(text.replace('top: "data"', f'top: "{top}"'))
    batch = next(iter(caffe2flax.data(net, "TEST", share=(0, 1))))
    assert len(batch) == 2
