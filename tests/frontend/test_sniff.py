"""Files of other kinds, given for a net, for weights or for a mean: what each is, and
what to give."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import caffe2flax
from caffe2flax.errors import ConversionError
from caffe2flax.prediction.preparation import read_mean
from tests.golden import FIXTURES
from tests.wireformat import chunk, dims, floats, integer, legacy

DIGITS = FIXTURES / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
MEAN = legacy(1, 1, 2, 2) + chunk(5, floats(1, 2, 3, 4))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
HTML = b"<!DOCTYPE html>\n<html><body>404</body></html>"

NETS = "give the net as a .prototxt"
BLOBS = "give the .caffemodel or .caffemodel.h5 that Caffe wrote"
MEANS = "give the .binaryproto that Caffe wrote"


def bytes_of(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def packed(save: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    save(stream, np.ones(3))
    return stream.getvalue()


def zipped(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x" * 100)

    return write


def keras(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.4.0"
        file.create_group("model_weights/dense_1").create_dataset("kernel:0", data=[1])


def new_mean(path: Path) -> None:
    path.write_bytes(chunk(5, floats(1, 2, 3, 4)) + dims(1, 1, 2, 2))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a Git LFS pointer": (bytes_of(LFS), "a Git LFS pointer.*git lfs pull"),
    "a web page": (bytes_of(HTML), "a web page"),
    "JSON": (bytes_of(b'{"message": "Not Found"}'), "a JSON text"),
    "a PyTorch file": (zipped("archive/data.pkl"), "a PyTorch file"),
    "an old PyTorch file": (bytes_of(pickle.dumps({"a": 1})), "a Python pickle"),
    "a Keras archive": (zipped("metadata.json"), "a Keras file"),
    "Keras' HDF5": (keras, "an HDF5 file of Keras"),
    "an .npz": (bytes_of(packed(np.savez)), "archive .*npz"),
    "an .npy": (bytes_of(packed(np.save)), "a numpy array"),
    "a zip archive": (zipped("a.txt"), "a zip archive"),
    "safetensors": (
        bytes_of(struct.pack("<Q", 64) + b'{"a":' + bytes(59)),
        "a safetensors file",
    ),
    "ONNX": (bytes_of(b"\x08\x07\x12\x07pytorch\x1a\x031.9:\x01a"), "an ONNX model"),
    "a solver state": (
        bytes_of(integer(1, 500) + chunk(2, "x.caffemodel")),
        "the state of a Caffe solver",
    ),
    "a mean": (bytes_of(MEAN), r"a mean file \(.binaryproto\)"),
    "a mean with a shape": (new_mean, r"a mean file \(.binaryproto\)"),
    "an image": (bytes_of(b"\x89PNG\r\n\x1a\n" + bytes(64)), "a PNG image"),
    "nothing": (bytes_of(b""), "file is empty"),
    "a folder": (Path.mkdir, "a folder, no regular file: give a file of it"),
}


def problem(call: Callable[[], object], path: object) -> str:
    with pytest.raises(ConversionError) as caught:
        call()
    (found,) = caught.value.problems
    assert found.file == str(path)
    return found.message


@pytest.mark.parametrize("name", KINDS)
def test_what_it_is_in_every_place(name: str, tmp_path: Path) -> None:
    """Given for a net and for weights alike, and for a mean where it is none."""
    write, kind = KINDS[name]
    path = tmp_path / "given"
    write(path)
    wholly = name in ("nothing", "a folder")
    calls: dict[str, Callable[[], object]] = {
        NETS: lambda: caffe2flax.convert(path),
        BLOBS: lambda: caffe2flax.convert(NET, path),
    }
    if "mean" not in name and name != "Keras' HDF5":
        calls[MEANS] = lambda: read_mean(path)
    for wanted, call in calls.items():
        told = problem(call, path)
        assert re.search(kind, told), told
        assert wholly or wanted in told


def test_swapped_arguments(tmp_path: Path) -> None:
    told = problem(lambda: caffe2flax.convert(WEIGHTS, NET), NET)
    assert "a prototxt: the net comes first, its weights behind it" in told
    bare = tmp_path / "bare.caffemodel"
    bare.write_bytes(chunk(100, chunk(1, "l"), chunk(7, dims(1) + chunk(5, floats(1)))))
    told = problem(lambda: caffe2flax.convert(bare, NET), bare)
    assert "holds weights but no net; give its prototxt, too, before it" in told


@pytest.mark.parametrize("url", ["https://host/net.caffemodel", "S3://bucket/net"])
def test_an_address(url: str) -> None:
    for call in (
        lambda: caffe2flax.convert(url),
        lambda: caffe2flax.convert(NET, url),
        lambda: caffe2flax.inspect(url),
    ):
        told = problem(call, url)
        assert told.startswith("this is a URL, and nothing is fetched from the network")


def test_weights_for_a_mean() -> None:
    told = problem(lambda: read_mean(WEIGHTS), WEIGHTS)
    assert "this is a file of weights (.caffemodel); give the .binaryproto" in told


def test_a_prototxt_with_an_error_is_a_prototxt(tmp_path: Path) -> None:
    """What only looks odd keeps its line."""
    path = tmp_path / "net.prototxt"
    path.write_text('name: "x"\nlayer { name "y" }\n')
    with pytest.raises(ConversionError, match=r"net\.prototxt:2:"):
        caffe2flax.convert(path)
    path.write_text("# nothing\n")
    with pytest.raises(ConversionError, match="the file holds no layers"):
        caffe2flax.convert(path)
