"""Pipes are read once, and nothing is read beyond its bound."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.errors import ConversionError
from caffe2flax.files.bounded import opened, read_bytes
from caffe2flax.files.npz import read_npy, read_npz
from caffe2flax.prediction.preparation import read_labels, read_mean
from tests.contained import Contained, contained
from tests.golden import FIXTURES
from tests.wireformat import chunk, floats, legacy

DIGITS = FIXTURES / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
MEAN = legacy(1, 1, 2, 2) + chunk(5, floats(1, 2, 3, 4))


@contextmanager
def piped(data: bytes) -> Iterator[Path]:
    """What a shell passes for `<(command)`."""
    read, write = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(write, "wb") as stream:
            stream.write(data)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield Path(f"/dev/fd/{read}")
    finally:
        os.close(read)
        thread.join(5)


def archive(tmp_path: Path, **arrays: Any) -> bytes:
    path = tmp_path / "made.npz"
    np.savez(path, **arrays)
    return path.read_bytes()


@pytest.mark.parametrize("size", [10, 10**6])
def test_pipes_are_seekable(size: int) -> None:
    with piped(bytes(size)) as path, opened(path) as stream:
        assert stream.seek(0, os.SEEK_END) == size
        stream.seek(0)
        assert stream.read() == bytes(size)


def test_arrays_labels_and_means(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with piped(archive(tmp_path, data=x)) as path:
        assert np.array_equal(read_npz(path)["data"], x)
    np.save(tmp_path / "x.npy", x)
    with piped((tmp_path / "x.npy").read_bytes()) as path:
        assert np.array_equal(read_npy(path), x)
    with piped(b"cat\ndog\n") as path:
        assert read_labels(path, range(2)) == {0: "cat", 1: "dog"}
    with piped(MEAN) as path:
        assert read_mean(path).tolist() == [[[1, 2], [3, 4]]]
    with piped((tmp_path / "x.npy").read_bytes()) as path:
        assert np.array_equal(read_mean(path), x)


def test_a_net_out_of_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Python and on the command line, with errors in their place."""
    text = NET.read_bytes()
    wanted = caffe2flax.convert(NET, WEIGHTS)
    with piped(text) as path:
        assert caffe2flax.convert(path, WEIGHTS, name=wanted.name).notes == wanted.notes
    with piped(text) as path:
        found = caffe2flax.inspect(path, WEIGHTS)
        assert found.to_dict()
    out = tmp_path / "out"
    for command in (
        ("convert", "{}", WEIGHTS, "-o", out, "--verify"),
        ("inspect", "{}", "--where", "conv1"),
        ("verify", "{}", WEIGHTS),
        ("draw", "{}", "-o", tmp_path / "net.dot"),
        ("upgrade", "{}"),
    ):
        with piped(text) as path:
            argv = [str(path) if a == "{}" else str(a) for a in command]
            assert main(argv) == 0, capsys.readouterr().err
    capsys.readouterr()
    with piped(b"layer { nam: 'x' }") as path:
        assert main(["convert", str(path), "-o", str(out)]) == 1
        assert f"{path}:1:7: error: the layer has no type" in capsys.readouterr().err


def test_inputs_out_of_a_pipe(tmp_path: Path) -> None:
    x = np.zeros((1, 1, 28, 28), np.float32)
    with piped(archive(tmp_path, data=x)) as path:
        command = ["run", NET, WEIGHTS, "--inputs", path, "--outputs", "{}/y.npz"]
        assert main([str(a).format(tmp_path) for a in command]) == 0
    assert read_npz(tmp_path / "y.npz")["prob"].shape == (1, 10)


def test_weights_out_of_a_pipe_are_refused() -> None:
    told = "no regular file but a pipe"
    with piped(b"x") as path, pytest.raises(ConversionError, match=told):
        caffe2flax.convert(NET, path)


BOUNDED: dict[str, Callable[[Path], object]] = {
    "piped_bytes": read_npz,
    "text_bytes": lambda path: read_labels(path, 2),
}


@pytest.mark.parametrize("limit", BOUNDED)
def test_one_byte_more_is_refused(limit: str, tmp_path: Path) -> None:
    for size, more in ((8, False), (9, True)):
        with (
            piped(b"a\nb" + b" " * (size - 3)) as path,
            caffe2flax.limited(**{limit: 8}),
        ):
            if not more:
                assert len(read_bytes(path, limit)) == 8
                continue
            with pytest.raises(ConversionError, match=f"more than 8 bytes.*{limit}=N"):
                BOUNDED[limit](path)


@pytest.fixture(scope="module")
def command() -> Iterator[Contained]:
    with contained() as run:
        yield run


ENDLESS = {
    "prototxt": ("convert", "{0}"),
    "old prototxt": ("upgrade", "{0}"),
    "weights": ("convert", NET, "{0}"),
    "inputs": ("run", NET, WEIGHTS, "--inputs", "{0}", "--outputs", "out.npz"),
    "inputs of verify": ("verify", NET, WEIGHTS, "--inputs", "{0}"),
    "image of verify": ("verify", NET, WEIGHTS, "--image", "{0}"),
    "module": ("verify", NET, WEIGHTS, "--module", "{0}"),
    "plug-in": ("inspect", NET, "--plugin", "{0}"),
    "labels": ("predict", NET, WEIGHTS, DIGITS, "--labels", "{0}"),
    "mean": ("predict", NET, WEIGHTS, DIGITS, "--mean", "{0}"),
    "image": ("predict", NET, WEIGHTS, "{0}"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_files_without_an_end(name: str, command: Contained) -> None:
    """As labels, inputs, mean, image, module, plug-in, weights and net."""
    found = command(*(str(a).format("/dev/zero") for a in ENDLESS[name]))
    assert found.status == 1, found
    assert "error: " in found.err, found
    assert "Traceback" not in found.err, found
    assert found.peak < 10**9, found
    assert found.seconds < 10, found
