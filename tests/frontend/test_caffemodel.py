"""Weight files against Caffe's blobs, special cases of the format, and hostile
bytes."""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe2flax.errors import ConversionError
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend import blob, caffemodel
from caffe2flax.frontend.blob import NVCAFFE
from caffe2flax.frontend.caffemodel import WeightFile, read, read_binaryproto
from caffe2flax.frontend.wire import Wire
from caffe2flax.limits import limited
from tests.wireformat import (
    chunk,
    dims,
    doubles,
    floats,
    group,
    integer,
    layer,
    legacy,
    singly,
    tag,
    varint,
)

FIXTURES = Path(__file__).parents[2] / "fixtures" / "caffemodel"
GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
BIG = 2**31 + 2**20


@pytest.fixture
def given_bytes(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "net.caffemodel"
        path.write_bytes(data)
        return path

    return write


def outcome(path: Path) -> WeightFile | str:
    """The file, or the message that refuses it."""
    try:
        return read(path)
    except ConversionError as error:
        return str(error)


def problem(path: Path, read: Callable[[Path], object] = read) -> str:
    with pytest.raises(ConversionError) as caught:
        read(path)
    assert {p.file for p in caught.value.problems} == {str(path)}
    return "\n".join(p.message for p in caught.value.problems)


def first_blobs(file: WeightFile) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for each in file.layers:
        for index, array in enumerate(each.blobs):
            found.setdefault(f"param:{each.name}:{index}", array)
    return found


def assert_holds(path: Path, npz: Path) -> None:
    with np.load(npz) as golden:
        expected = {k: golden[k] for k in golden.files if k.startswith("param:")}
    file = read(path)
    found = first_blobs(file)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        want = expected[name]
        if file.version in ("V0", "V1"):
            assert array.ndim == 4
            want = want.reshape(array.shape)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array.astype(np.float32), want, strict=True)


WEIGHTS = {
    "v0_convnet.caffemodel": "V2",
    "v0_convnet.v0.caffemodel": "V0",
    "v0_convnet.v1.caffemodel": "V1",
    "v0_convnet.double.caffemodel": "V2",
    "v0_convnet.caffemodel.h5": "HDF5",
    "v1_deconv.caffemodel": "V2",
    "lstm_static.caffemodel": "V2",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_holds_what_caffe_held(name: str) -> None:
    path = FIXTURES / name
    assert read(path).version == WEIGHTS[name]
    assert_holds(path, FIXTURES / f"{name.split('.')[0]}.npz")


def test_every_recorded_case_in_place() -> None:
    """The whole record where it stands beside the checkout."""
    for folder in ("layers", "fork_layers"):
        for path in sorted((GOLDEN / folder).glob("*.caffemodel*")):
            # Two layers of one name: the record is of what Caffe makes of them.
            if path.name != "dup_layer_names.caffemodel":
                assert_holds(path, path.with_name(f"{path.name.split('.')[0]}.npz"))


def test_half_precision_in_place() -> None:
    """NVCaffe's raw half precision against the same network in single precision."""
    folder = GOLDEN / "real"
    if not folder.is_dir():
        return
    halves = read(folder / "hyperlpr_fp16" / "weights.caffemodel")
    singles = read(folder / "hyperlpr_HorizonalFinemapping" / "weights.caffemodel")
    assert any(NVCAFFE in note for note in halves.notes)
    assert [(x.name, x.type) for x in halves.layers] == [
        (x.name, x.type) for x in singles.layers
    ]
    for half, single in zip(halves.layers, singles.layers, strict=True):
        for a, b in zip(half.blobs, single.blobs, strict=True):
            np.testing.assert_array_equal(a, b.astype(np.float16), strict=True)


TYPES = {
    "v0_convnet.caffemodel": ("Input", "Convolution", "ReLU", "Pooling", "LRN"),
    "v0_convnet.v1.caffemodel": ("Convolution", "ReLU", "Pooling", "LRN"),
    "v0_convnet.v0.caffemodel": ("conv", "relu", "pool", "lrn"),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_of_layers(name: str) -> None:
    file = read(FIXTURES / name)
    assert tuple(each.type for each in file.layers)[: len(TYPES[name])] == TYPES[name]
    assert file.net_name == "v0_convnet"
    assert file.notes == ()


def test_tensors_are_views_of_the_file() -> None:
    path = FIXTURES / "v0_convnet.caffemodel"
    for array in first_blobs(read(path)).values():
        assert array.base is not None
        assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


def test_offsets_are_those_of_the_layers() -> None:
    path = FIXTURES / "v0_convnet.caffemodel"
    data = path.read_bytes()
    for each in read(path).layers:
        assert data[each.offset : each.offset + 2] == tag(100, 2)
        assert each.name.encode() in data[each.offset : each.offset + 16]


def test_mean_file() -> None:
    mean = read_binaryproto(FIXTURES / "infogain_H.binaryproto")
    assert mean.shape == (1, 1, 4, 4)
    assert mean.dtype == np.float32
    data = (FIXTURES / "infogain_H.binaryproto").read_bytes()
    assert floats(*mean.ravel().tolist()) in data


F3 = (1.0, -2.5, 3.25)
QUIRKS = {
    "packed": (dims(3) + chunk(5, floats(*F3)), "f4", (3,)),
    "values before the shape": (chunk(5, floats(*F3)) + dims(3), "f4", (3,)),
    "unpacked": (dims(3) + singly(5, F3), "f4", (3,)),
    "one unpacked value": (dims(1) + singly(5, F3[:1]), "f4", (1,)),
    "many unpacked": (dims(40, 50) + singly(5, F3 * 666 + F3[:2]), "f4", (40, 50)),
    "several chunks": (
        dims(2, 3) + chunk(5, floats(*F3)) + chunk(5) + chunk(5, floats(*F3)),
        "f4",
        (2, 3),
    ),
    "chunks and single values": (
        singly(5, F3) + chunk(5, floats(*F3)) + dims(3, 3) + singly(5, F3),
        "f4",
        (3, 3),
    ),
    "a tag longer than needed": (
        dims(2) + b"\xad\x00" + floats(1) + tag(5, 5) + floats(-2.5),
        "f4",
        (2,),
    ),
    "more pieces than are kept apart": (
        dims(3 * 2000) + (chunk(5, floats(*F3)) + integer(900, 1)) * 2000,
        "f4",
        (6000,),
    ),
    "doubles": (dims(3) + chunk(8, doubles(*F3)), "f8", (3,)),
    "unpacked doubles": (dims(3) + singly(8, F3, 1), "f8", (3,)),
    "doubles before floats": (
        dims(3) + chunk(5, floats(9, 9, 9)) + chunk(8, doubles(*F3)),
        "f8",
        (3,),
    ),
    "half precision": (
        dims(3) + integer(10, 2) + chunk(12, struct.pack("<3e", *F3)),
        "f2",
        (3,),
    ),
    "raw floats": (dims(3) + integer(10, 1) + chunk(12, floats(*F3)), "f4", (3,)),
    "raw doubles": (dims(3) + integer(10, 0) + chunk(12, doubles(*F3)), "f8", (3,)),
    "unpacked shape": (
        chunk(7, integer(1, 1), integer(1, 3)) + chunk(5, floats(*F3)),
        "f4",
        (1, 3),
    ),
    "shape in two parts": (dims(1) + dims(3) + chunk(5, floats(*F3)), "f4", (1, 3)),
    "legacy shape": (legacy(1, 1, 1, 3) + chunk(5, floats(*F3)), "f4", (1, 1, 1, 3)),
    "legacy before shape": (
        dims(3) + legacy(1, 1, 3, 1) + chunk(5, floats(*F3)),
        "f4",
        (1, 1, 3, 1),
    ),
    "no values": (dims(0, 4), "f4", (0, 4)),
    "a legacy dimension left out": (legacy(1, 1, 3), "f4", (1, 1, 3, 0)),
    "no axes": (chunk(5, floats(*F3[:1])), "f4", ()),
    "32 axes": (dims(*[1] * 31, 3) + chunk(5, floats(*F3)), "f4", (1,) * 31 + (3,)),
    "gradients": (
        dims(3)
        + chunk(5, floats(*F3))
        + chunk(6, floats(8, 8, 8))
        + chunk(9, doubles(8, 8, 8)),
        "f4",
        (3,),
    ),
    "C3D": (
        legacy(1, 1, 1, 1) + integer(5, 3) + chunk(6, floats(*F3)) + chunk(7, b"abcd"),
        "f4",
        (1, 1, 1, 1, 3),
    ),
    "groups": (
        group(3, group(4, integer(1, 5)), chunk(5, floats(9)))
        + dims(3)
        + chunk(5, floats(*F3)),
        "f4",
        (3,),
    ),
    "unknown fields of every wire type": (
        integer(20, 5)
        + tag(21, 1)
        + doubles(1)
        + chunk(22, b"x")
        + group(23)
        + tag(24, 5)
        + floats(1)
        + dims(3)
        + chunk(5, floats(*F3)),
        "f4",
        (3,),
    ),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_quirk(name: str, given_bytes: Callable[[bytes], Path], tmp_path: Path) -> None:
    message, dtype, shape = QUIRKS[name]
    ((found,),) = (each.blobs for each in read(given_bytes(layer(message))).layers)
    assert found.dtype == dtype
    assert found.shape == shape
    assert not found.flags.writeable
    expected = np.resize(np.array(F3 if found.size else (), dtype), shape)
    np.testing.assert_array_equal(found, expected, strict=True)
    mean = tmp_path / "mean.binaryproto"
    mean.write_bytes(message)
    if found.size:
        np.testing.assert_array_equal(read_binaryproto(mean), found, strict=True)
    else:
        assert "no values at byte" in problem(mean, read_binaryproto)


def test_single_values_stand_as_written(given_bytes: Callable[[bytes], Path]) -> None:
    path = given_bytes(layer(dims(1) + singly(5, (7.0,)), chunk(5, floats(5))))
    assert [b.ravel().tolist() for b in read(path).layers[0].blobs] == [[7.0], [5.0]]


def test_v0_blobs_in_the_outer_message(given_bytes: Callable[[bytes], Path]) -> None:
    one, two = (legacy(1, 1, 1, 1) + chunk(5, floats(v)) for v in (1, 2))
    inner = [chunk(1, "fc"), chunk(2, "innerproduct")]
    outer = chunk(2, chunk(1, *inner), chunk(6, one))
    both = chunk(2, chunk(1, *inner, chunk(50, two)), chunk(6, one))
    file = read(given_bytes(outer + both))
    assert file.version == "V0"
    assert [each.blobs[0].item() for each in file.layers] == [1, 2]
    assert {(each.name, each.type) for each in file.layers} == {("fc", "innerproduct")}


def test_v1_types(given_bytes: Callable[[bytes], Path]) -> None:
    numbers = {0: "", 4: "Convolution", 39: "Deconvolution", 61: "61"}
    data = b"".join(chunk(2, chunk(4, "x"), integer(5, number)) for number in numbers)
    file = read(given_bytes(data))
    assert file.version == "V1"
    assert [each.type for each in file.layers] == list(numbers.values())
    assert file.notes == ("layer type number 61 is a fork's own",)


def test_splits_are_left_out(given_bytes: Callable[[bytes], Path]) -> None:
    data = layer(name="data_split_0", type="Split") + layer(name="fc")
    assert [each.name for each in read(given_bytes(data)).layers] == ["fc"]


def test_conflicting_fields_are_stepped_over(
    given_bytes: Callable[[bytes], Path],
) -> None:
    """The numbers that forks took for other things, in other wire types."""
    good = dims(1) + chunk(5, floats(4))
    body = [integer(1, 3), chunk(1, "fc"), tag(2, 5) + floats(1), chunk(2, "Scale")]
    body += [integer(145, 1), integer(146, 1), integer(7, 1), chunk(7, good)]
    body += [chunk(202, b"\xff"), group(8266711, integer(1, 1))]
    file = read(given_bytes(integer(2, 1) + integer(100, 1) + chunk(100, *body)))
    (only,) = file.layers
    assert (only.name, only.type, only.blobs[0].item()) == ("fc", "Scale", 4)
    assert any(NVCAFFE in note for note in file.notes)
    assert any("field 202 " in note for note in file.notes)
    assert any("field 8266711 " in note for note in file.notes)


def test_names_that_are_no_utf8(given_bytes: Callable[[bytes], Path]) -> None:
    data = chunk(100, chunk(1, b"conv\xff"), chunk(2, "Scale"))
    assert read(given_bytes(data)).layers[0].name == "conv\\xff"


GOOD = dims(1) + chunk(5, floats(4))
DEFECTS = {
    "empty": (b"", "empty"),
    "field 0": (b"\x02\x00", "field number 0 at byte 0"),
    "wire type 7": (layer(GOOD) + b"\x0f", "wire type 7, which does not exist at byte"),
    "wire type 6": (b"\x0e", "wire type 6"),
    "an endless varint": (b"\x08" + b"\xff" * 11, "more than 10 bytes"),
    "an endless tag": (b"\xff" * 11, "varint of more than 10 bytes at byte 0"),
    "a tag beyond 32 bits": (tag(2**30, 0) + b"\x00", "field number"),
    "a varint cut off": (layer() + b"\x28\x80", "ends inside a varint at byte"),
    "a float cut off": (layer() + tag(9, 5) + b"abc", "ends inside field 9 at byte"),
    "a string beyond the end": (chunk(1, "name")[:-1], "declares 4 bytes, 3 are left"),
    "2**63 bytes": (tag(100, 2) + varint(2**63), f"declares {2**63} bytes, 0 are left"),
    "a blob beyond its layer": (
        chunk(100, tag(7, 2), varint(9), dims(1)) + bytes(50),
        "declares 9 bytes, 5 are left at byte 3",
    ),
    "a shape beyond its blob": (
        layer(tag(7, 2) + varint(50)) + layer(GOOD) * 9,
        "declares 50 bytes, 0 are left",
    ),
    "a dimension beyond its shape": (
        layer(chunk(7, tag(1, 2) + varint(1) + b"\x80") + chunk(5, floats(1))),
        "ends inside a varint",
    ),
    "a group without an end": (layer() + tag(9, 3), "group 9 has no end at byte"),
    "an end without a group": (layer() + tag(9, 4), "end of group 9 without a start"),
    "crossing groups": (
        tag(8, 3) + tag(9, 3) + tag(8, 4) + tag(9, 4),
        "end of group 8 where group 9 is open at byte 2",
    ),
    "groups in groups": (tag(9, 3) * 100, "group 9 has no end at byte 0"),
    "groups too deep": (tag(9, 3) * 101, "more than 100 groups are nested at byte 100"),
    "both kinds of layers": (layer() + chunk(2, chunk(4, "x")), "both `layer` and"),
    "no layers": (integer(5, 1), "holds no layers at byte 0"),
    "half a float": (layer(dims(1) + chunk(5, b"abcde")), "blob 0: 5 bytes of packed"),
    "half a double": (layer(dims(1) + chunk(8, b"abcde")), "values of 8 bytes"),
    "half a half": (
        layer(dims(1) + integer(10, 2) + chunk(12, b"abc")),
        "3 bytes of packed values of 2 bytes",
    ),
    "raw integers": (
        layer(dims(1) + integer(10, 3) + chunk(12, b"abcd")),
        "raw_data of type 3",
    ),
    "fewer values than the shape": (
        layer(GOOD, dims(2, 2) + chunk(5, floats(1, 2, 3))),
        "layer 'fc' blob 1: shape (2, 2) has 4 values, but 3 are stored at byte",
    ),
    "a shape without values": (layer(dims(2)), "has 2 values, but 0 are stored"),
    "a negative dimension": (layer(dims(-1, -1) + chunk(5, floats(1))), "negative"),
    "a negative legacy dimension": (layer(legacy(1, 1, 1, -1)), "negative"),
    "2**62 by 2**62": (layer(dims(2**62, 2**62)), "too large"),
    "none of 2**62 by 2**62": (layer(dims(0, 2**62, 2**62)), "too large"),
    "33 axes": (layer(dims(*[1] * 33) + chunk(5, floats(1))), "more than 32 axes"),
    "33 axes, unpacked": (layer(chunk(7, integer(1, 1) * 33)), "more than 32 axes"),
    "33 axes, in parts": (layer(dims(1) * 33), "more than 32 axes"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect(name: str, given_bytes: Callable[[bytes], Path]) -> None:
    data, expected = DEFECTS[name]
    message = problem(given_bytes(data))
    assert expected in message
    assert "at byte " in message


def test_every_bad_blob_is_reported(given_bytes: Callable[[bytes], Path]) -> None:
    bad = dims(2) + chunk(5, floats(1))
    message = problem(given_bytes(layer(bad, GOOD, bad) + layer(bad, name="x" * 999)))
    assert message.count("\n") == 2
    assert "layer 'fc' blob 2" in message
    assert "layer 'xxx" in message
    assert "x" * 100 not in message
    assert problem(given_bytes(layer(bad) * 9999)).count("\n") < 100


def test_counts_have_a_limit(given_bytes: Callable[[bytes], Path]) -> None:
    with limited(layers=10):
        assert len(read(given_bytes(layer(GOOD) * 10)).layers) == 10
        assert "more layers, the limit is 10" in problem(given_bytes(layer() * 11))
        assert read(given_bytes(layer(*[GOOD] * 40))).layers
        assert "the limit is 10" in problem(given_bytes(layer(*[GOOD] * 41)))


def test_notes_have_a_limit(given_bytes: Callable[[bytes], Path]) -> None:
    fields = [integer(number, 1) for number in range(1000, 2000)]
    assert len(read(given_bytes(chunk(100, *fields))).notes) == blob.MAX_NOTES


OTHERS = {
    "a text prototxt": (b'name: "LeNet"\nlayer {\n  name: "data"\n}\n', "a text file"),
    "with comments": ("# R\u00e9seau\nlayers { }\n".encode(), "a text file"),
    "with a byte order mark": (b"\xef\xbb\xbflayer { }", "a text file"),
    "beginning with input": (b'input: "data"\ninput_dim: 1\n' * 9, "a text file"),
    "safetensors": (struct.pack("<Q", 64) + b'{"a":' + bytes(59), "safetensors"),
    "a pickle": (pickle.dumps({"conv1": [1.0]}), "pickle"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip archive"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(60), "gzip"),
    "tar": (b"net.caffemodel" + bytes(243) + b"ustar" + bytes(250), "tar archive"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "Git LFS pointer",
    ),
    "JSON": (b'{"message": "Not Found"}', "JSON"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "numpy array"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x031.9", "ONNX"),
    "a solver state": (integer(1, 500) + chunk(2, "x.caffemodel"), "solver"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("reader", [read, read_binaryproto])
def test_another_format_is_named(
    name: str, reader: Callable[[Path], object], given_bytes: Callable[[bytes], Path]
) -> None:
    data, expected = OTHERS[name]
    message = problem(given_bytes(data), reader)
    assert expected in message
    assert "at byte " in message


@pytest.mark.parametrize("reader", [read, read_binaryproto])
def test_what_cannot_be_opened(
    reader: Callable[[Path], object], tmp_path: Path
) -> None:
    assert "cannot be read: No such file" in problem(tmp_path / "none", reader)
    assert "no regular file" in problem(tmp_path, reader)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in problem(tmp_path / "pipe", reader)


@pytest.mark.parametrize("name", [n for n in WEIGHTS if not n.endswith(".h5")])
def test_truncated_anywhere(name: str, tmp_path: Path) -> None:
    """Cut at any byte, a file is refused, or it ended between two layers."""
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data)
    ends = {found.offset for found in Wire(name, data).fields(0, len(data))}
    first = read(path).layers[0].offset
    for size in range(len(data) - 1, 0, -1):
        os.truncate(path, size)
        part = outcome(path)
        if isinstance(part, str):
            assert size not in ends or size <= first
            assert "at byte " in part
        else:
            assert size in ends
            assert all(each.offset < size for each in part.layers)


def test_truncated_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel.h5"
    data = (FIXTURES / "v0_convnet.caffemodel.h5").read_bytes()
    path.write_bytes(data)
    for size in range(len(data) - 1, 0, -211):
        os.truncate(path, size)
        assert "at byte " in problem(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([n for n in WEIGHTS if not n.endswith(".h5")]),
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 50),
    extra=st.binary(max_size=12),
)
def test_changed_bytes_never_crash(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[int, int]],
    cut: int,
    extra: bytes,
) -> None:
    data = bytearray((FIXTURES / name).read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    where = changes[0][0] % len(data) if changes else 0
    data[where : where + cut] = extra
    path = tmp_path_factory.getbasetemp() / "changed.caffemodel"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    file = outcome(path)
    if isinstance(file, str):
        assert "at byte " in file
    else:
        assert sum(array.nbytes for array in first_blobs(file).values()) <= len(data)


@given(st.binary(max_size=200))
def test_any_bytes_walk_to_their_end(data: bytes) -> None:
    wire = Wire("any", data)
    try:
        found = list(wire.fields(0, len(data)))
    except ConversionError:
        return
    assert all(a.end <= b.offset for a, b in pairwise(found))
    assert all(f.offset < f.start <= f.end <= len(data) for f in found)


@given(st.lists(st.floats(width=32), max_size=300), st.integers(1, 7))
def test_runs_of_unpacked_values(values: list[float], other: int) -> None:
    """However often a run is broken, the values come out in order."""
    parts = [
        singly(5, (value,)) + (integer(other + 8, 1) if i % (3 * other) == 1 else b"")
        for i, value in enumerate(values)
    ]
    data = dims(len(values)) + b"".join(parts)
    found = blob.read_blob(Wire("", data), 0, len(data), "", caffemodel.Counter())
    np.testing.assert_array_equal(found, np.array(values, "f4"), strict=True)


def test_beyond_2_gib(tmp_path: Path) -> None:
    """A file with holes: only its ends take room on the disk."""
    path = tmp_path / "big.caffemodel"
    count = BIG // 4
    blob = dims(count) + tag(5, 2) + varint(4 * count)
    body = chunk(1, "fc") + tag(7, 2) + varint(len(blob) + 4 * count) + blob
    head = tag(100, 2) + varint(len(body) + 4 * count) + body
    tail = layer(GOOD, name="last")
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + 4 * count - 4)
        file.write(floats(2.5) + tail)
    big, last = read(path).layers
    assert big.blobs[0].shape == (count,)
    assert big.blobs[0][-1] == 2.5
    assert last.offset > 2**31
    assert last.blobs[0].item() == 4


def test_a_file_that_changes_is_noticed(given_bytes: Callable[[bytes], Path]) -> None:
    path = given_bytes(layer(GOOD))
    file = read(path)
    file.check()
    os.truncate(path, file.size - 1)
    with pytest.raises(ConversionError, match="bytes while it was read"):
        file.check()
    with pytest.raises(ConversionError, match="went from 34 to 33 bytes"):
        loaded(file.layers[0].blobs[0])


def test_a_file_that_is_written_to_is_noticed(
    given_bytes: Callable[[bytes], Path],
) -> None:
    path = given_bytes(layer(GOOD))
    file = read(path)
    os.utime(path, (1, 1))
    with pytest.raises(ConversionError, match="was written to while it was read"):
        file.check()


def test_a_file_that_vanishes_stays_whole(
    given_bytes: Callable[[bytes], Path],
) -> None:
    path = given_bytes(layer(GOOD))
    file = read(path)
    path.unlink()
    given_bytes(b"another")
    file.check()
    assert loaded(file.layers[0].blobs[0]).size == file.layers[0].blobs[0].size


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return tmp_path / "net.caffemodel.h5"


def test_hdf5_names_with_slashes(snapshot: Path) -> None:
    with h5py.File(snapshot, "w") as file:
        file["data/inception/1x1/0"] = np.arange(6, dtype=">f4").reshape(2, 3)
        file["data/inception/1x1/1"] = np.float64([1, 2])
        file["data/inception/3x3/0"] = np.float32([3])
        file.create_group("data/relu")
        file.create_dataset("data/chunked/0", data=np.ones((4, 4), "f4"), chunks=(2, 2))
    layers = read(snapshot).layers
    names = ["chunked", "inception/1x1", "inception/3x3", "relu"]
    assert sorted(each.name for each in layers) == names
    arrays = first_blobs(read(snapshot))
    first = arrays["param:inception/1x1:0"]
    np.testing.assert_array_equal(first, np.arange(6.0).reshape(2, 3))
    assert first.dtype == np.float32
    assert arrays["param:inception/1x1:1"].dtype == np.float64
    np.testing.assert_array_equal(arrays["param:chunked:0"], np.ones((4, 4)))
    assert not any(array.flags.writeable for array in arrays.values())


def _soft(data: h5py.Group) -> None:
    data["fc/0"] = h5py.SoftLink("/data")


def _external(data: h5py.Group) -> None:
    data["fc/0"] = h5py.ExternalLink("/etc/hostname", "/data")


def _external_group(data: h5py.Group) -> None:
    del data.file["data"]
    data.file["data"] = h5py.ExternalLink("/etc/hostname", "/")


def _elsewhere(data: h5py.Group) -> None:
    here = [("/etc/hostname", 0, 8)]
    data.create_dataset("fc/0", shape=(2,), dtype="f4", external=here)


def _virtual(data: h5py.Group) -> None:
    layout = h5py.VirtualLayout(shape=(2,), dtype="f4")
    layout[...] = h5py.VirtualSource("/etc/hostname", "x", shape=(2,))
    data.create_virtual_dataset("fc/0", layout)


def _bomb(data: h5py.Group) -> None:
    data.create_dataset("fc/0", shape=(2**40,), dtype="f4", chunks=(2**20,))


def _unpacked(data: h5py.Group) -> None:
    data.create_dataset("fc/0", data=np.zeros(2**16, "f4"), compression="gzip")


def _twice(data: h5py.Group) -> None:
    data["fc/0"] = np.float32([1])
    data["other/0"] = data["fc/0"]


def _cycle(data: h5py.Group) -> None:
    data.create_group("fc")
    data["fc/again"] = data["fc"]


def _loop(data: h5py.Group) -> None:
    data["fc"] = data


def _no_number(data: h5py.Group) -> None:
    data["fc/01"] = np.float32([1])


def _integers(data: h5py.Group) -> None:
    data["fc/0"] = np.int32([1])


def _loose(data: h5py.Group) -> None:
    data["0"] = np.float32([1])


def _type(data: h5py.Group) -> None:
    data["fc/0"] = np.dtype("f4")


def _null(data: h5py.Group) -> None:
    data["fc/0"] = h5py.Empty("f4")


def _no_data(data: h5py.Group) -> None:
    data.file.move("data", "model_weights")


HDF5_DEFECTS = [
    (_soft, "SoftLink, not followed"),
    (_external, "ExternalLink, not followed"),
    (_external_group, "ExternalLink, not followed"),
    (_elsewhere, "in another file"),
    (_virtual, "in another file"),
    (_bomb, "more bytes than are stored"),
    (_unpacked, "more bytes than are stored"),
    (_twice, "under two names"),
    (_cycle, "under two names"),
    (_loop, "under two names"),
    (_no_number, "no blobs: 01"),
    (_integers, "values of type int32"),
    (_loose, "datasets of no layer: 0"),
    (_type, "more than groups and datasets"),
    (_null, "no shape"),
    (_no_data, "no group 'data'"),
]


@pytest.mark.parametrize(("make", "expected"), HDF5_DEFECTS)
def test_hdf5_defect(
    make: Callable[[h5py.Group], None], expected: str, snapshot: Path
) -> None:
    with h5py.File(snapshot, "w") as file:
        make(file.create_group("data"))
    message = problem(snapshot)
    assert expected in message
    assert "at byte " in message


def test_hdf5_gap(snapshot: Path) -> None:
    """A blob that another layer owns is left out: the others keep their numbers."""
    with h5py.File(snapshot, "w") as file:
        for number in (10, 1, 9):
            file[f"data/fc/{number}"] = np.float32([number])
    (found,) = read(snapshot).layers
    assert found.numbers == (1, 9, 10)
    assert {n: float(blob[0]) for n, blob in found.numbered.items()} == {
        1: 1,
        9: 9,
        10: 10,
    }


def test_hdf5_without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = problem(FIXTURES / "v0_convnet.caffemodel.h5")
    assert "pip install 'caffe2flax[hdf5]'" in message
