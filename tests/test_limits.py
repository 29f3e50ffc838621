"""What a small file can ask for: every case in under two seconds and 500 MB."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.parser import parser
from caffe2flax.limits import NAMES, Limits, current
from tests import wireformat as wire
from tests.contained import Contained, Outcome, contained

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "fixtures" / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
SECONDS, BYTES = 2.0, 500 * 10**6
INT_MAX = 2**31 - 1


@pytest.fixture(scope="module")
def command() -> Iterator[Contained]:
    with contained() as run:
        yield run


def held(found: Outcome) -> Outcome:
    """`found`, within what is promised."""
    assert found.seconds < SECONDS, found
    assert found.peak < BYTES, found
    assert found.status in (0, 1), found
    assert "Traceback" not in found.err
    return found


def source(*extents: object) -> str:
    dims = " ".join(f"dim: {extent}" for extent in extents)
    shape = f"input_param {{ shape {{ {dims} }} }}"
    return f'layer {{ name: "d" type: "Input" top: "d" {shape} }}\n'


IMAGE = source(1, 3, 8, 8)


def one(type_: str, fields: str, tops: str = 'top: "t"', data: str = IMAGE) -> str:
    """A layer of this type on an image."""
    return f'{data}layer {{ name: "l" type: "{type_}" bottom: "d" {tops} {fields} }}\n'


def many(count: int, line: Callable[[int], str]) -> str:
    return IMAGE + "".join(map(line, range(count)))


def chain(count: int, layer: str) -> str:
    """Layers one behind the other."""
    return IMAGE + "".join(
        f'layer {{ name: "l{i}" bottom: "{f"b{i - 1}" if i else "d"}" top: "b{i}" '
        f"{layer} }}\n"
        for i in range(count)
    )


CONV = 'type: "Convolution" convolution_param { num_output: 64 kernel_size: 1 }'
DIGITS_OF_A_NUMBER = "9" * 10**6

REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "deep nesting": (lambda: "layer { " * 10**4, "nested too deeply"),
    "deep nesting, closed": (lambda: "a{" * 5000 + "}" * 5000, "nested too deeply"),
    "a million layers": (lambda: "layer { }\n" * 10**6, "fields=N"),
    "a million values": (
        lambda: one("Reshape", f"reshape_param {{ shape {{ {'dim: 1 ' * 10**6} }} }}"),
        "fields=N",
    ),
    "a million values in a list": (
        lambda: one("Slice", f"slice_param {{ slice_point: [{'1,' * 10**6} 1] }}"),
        "fields=N",
    ),
    "a million tops": (lambda: one("Split", 'top: "t" ' * 10**6), "fields=N"),
    "a million bottoms": (lambda: one("Concat", 'bottom: "d" ' * 10**6), "fields=N"),
    "a million parameters of one name": (
        lambda: one("InnerProduct", 'param { name: "w" } ' * 10**6),
        "fields=N",
    ),
    "200,000 tops of a Slice": (
        lambda: one("Slice", "", "".join(f'top: "t{i}" ' for i in range(200_000))),
        "fields=N",
    ),
    "100 MB of junk": (lambda: "as{d]f: : " * 10**7, "prototxt_bytes=N"),
    "30 MB of junk": (lambda: "as]df: " * (30 * 10**6 // 7), "fields=N|expected"),
    "a string without an end": (lambda: f'name: "{"x" * 10**7}', "no closing"),
    "a million quotes": (lambda: "'" * 10**6, "expected"),
    "a million brackets": (lambda: "a: " + "[" * 10**6, "expected"),
    "a cycle": (
        lambda: (
            'layer { name: "a" type: "ReLU" bottom: "y" top: "x" }'
            'layer { name: "b" type: "ReLU" bottom: "x" top: "y" }'
        ),
        "which no layer makes",
    ),
    "10 TB of activations": (
        lambda: chain(1200, CONV).replace(IMAGE, source(511, 64, 256, 256)),
        "activation_bytes=N",
    ),
    "an int of a million digits": (
        lambda: one("Tile", f"tile_param {{ tiles: {DIGITS_OF_A_NUMBER} }}"),
        "an integer, not 999",
    ),
    "a dim of a million digits": (
        lambda: source(DIGITS_OF_A_NUMBER),
        "an integer, not 999",
    ),
    "weights of 2^31 rows": (
        lambda: one("InnerProduct", f"inner_product_param {{ num_output: {INT_MAX} }}"),
        "exceeds 2\\^31",
    ),
    "4,000 unknown types": (
        lambda: many(4_000, lambda i: f'layer {{ type: "Odd{i}" top: "t{i}" }}\n'),
        "not supported",
    ),
    "4,000 unknown blobs": (
        lambda: many(
            4_000, lambda i: f'layer {{ type: "ReLU" bottom: "u{i}" top: "t{i}" }}\n'
        ),
        "which no layer makes",
    ),
    "20,000 unknown fields": (
        lambda: one("ReLU", " ".join(f"f{i}: 1" for i in range(20_000))),
        "unknown field",
    ),
}
"""Prototxts, and what is said."""

DONE: dict[str, Callable[[], str]] = {
    "a comment of 30 MB": lambda: f"# {'x' * 30 * 10**6}\n{one('ReLU', '')}",
    "30 MB of line breaks": lambda: "\n" * 30 * 10**6 + one("ReLU", ""),
    "a name of 10 MB": lambda: f'name: "{"x" * 10**7}"\n{one("ReLU", "")}',
    "a layer's name of 10 MB": lambda: one("ReLU", "").replace(
        '"l"', f'"{"x" * 10**7}"'
    ),
    "a number of a million digits": lambda: one(
        "Power", f"power_param {{ scale: 0.{DIGITS_OF_A_NUMBER} }}"
    ),
    "a pooling larger than its image": lambda: one(
        "Pooling", "pooling_param { pool: MAX kernel_size: 8 stride: 2147483647 }"
    ),
}

HUGE: dict[str, tuple[str, str]] = {
    "num_output": (
        "Convolution",
        "convolution_param {{ num_output: {} kernel_size: 1 }}",
    ),
    "kernel": ("Convolution", "convolution_param {{ num_output: 1 kernel_size: {} }}"),
    "pad": (
        "Convolution",
        "convolution_param {{ num_output: 1 kernel_size: 1 pad: {} }}",
    ),
    "stride": (
        "Convolution",
        "convolution_param {{ num_output: 1 kernel_size: 1 stride: {} }}",
    ),
    "dilation": (
        "Convolution",
        "convolution_param {{ num_output: 1 kernel_size: 2 dilation: {} }}",
    ),
    "group": (
        "Convolution",
        "convolution_param {{ num_output: 1 kernel_size: 1 group: {} }}",
    ),
    "deconvolution": (
        "Deconvolution",
        "convolution_param {{ num_output: 1 kernel_size: 2 stride: {} }}",
    ),
    "pooling": ("Pooling", "pooling_param {{ pool: AVE kernel_size: {} }}"),
    "pooling pad": ("Pooling", "pooling_param {{ pool: AVE kernel_size: 3 pad: {} }}"),
    "im2col": ("Im2col", "convolution_param {{ kernel_size: 1 pad: {} }}"),
    "tiles": ("Tile", "tile_param {{ tiles: {} }}"),
    "reshape": ("Reshape", "reshape_param {{ shape {{ dim: {} dim: -1 }} }}"),
    "interp": ("Interp", "interp_param {{ height: {0} width: {0} }}"),
    "upsample": ("Upsample", "upsample_param {{ scale: {} }}"),
    "slice_point": ("Slice", "slice_param {{ slice_point: {} }}"),
    "local_size": ("LRN", "lrn_param {{ local_size: {} }}"),
    "pyramid_height": ("SPP", "spp_param {{ pyramid_height: {} }}"),
    "embed": ("Embed", "embed_param {{ input_dim: {0} num_output: {0} }}"),
    "inner product": ("InnerProduct", "inner_product_param {{ num_output: {} }}"),
    "reorg": ("Reorg", "reorg_param {{ stride: {} }}"),
    "top_k": ("ArgMax", "argmax_param {{ top_k: {} }}"),
    "axis": ("Softmax", "softmax_param {{ axis: {} }}"),
    "permute": ("Permute", "permute_param {{ order: {} }}"),
    "pad layer": ("Pad", "pad_param {{ pad_u: {} }}"),
    "shuffle": ("ShuffleChannel", "shuffle_channel_param {{ group: {} }}"),
}
NUMBERS = (-(2**63) - 1, -1, 0, INT_MAX, 2**31, 2**32, 2**63, 10**30)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, command: Contained, tmp_path: Path) -> None:
    text, said = REFUSED[case]
    path = tmp_path / "net.prototxt"
    path.write_text(text())
    found = held(command("convert", path, "-o", tmp_path / "out"))
    assert found.status == 1
    assert not (tmp_path / "out").exists()
    assert re.search(said, found.err), found.err[:500]


@pytest.mark.parametrize("case", DONE)
def test_done(case: str, command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(DONE[case]())
    found = held(command("convert", path, "-o", tmp_path / "out"))
    assert found.status == 0, found.err[:500]


@pytest.mark.parametrize("case", HUGE)
def test_huge_numbers(case: str, command: Contained, tmp_path: Path) -> None:
    type_, fields = HUGE[case]
    path = tmp_path / "net.prototxt"
    for number in NUMBERS:
        path.write_text(one(type_, fields.format(number)))
        held(command("convert", path, "-o", tmp_path / "out", "--force"))


@pytest.mark.parametrize("extent", NUMBERS)
def test_huge_dims(extent: int, command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(one("ReLU", "", data=source(1, extent, extent)))
    found = held(command("convert", path, "-o", tmp_path))
    assert found.status == 1


def test_a_gigabyte_of_comment_is_not_read(command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    with path.open("wb") as file:
        file.write(b"# " + b"x" * 1000)
        file.truncate(2**30)
    found = held(command("convert", path, "-o", tmp_path / "out"))
    assert found.status == 1
    assert "a prototxt of 1073741824 bytes, the limit is 33554432" in found.err
    assert found.seconds < SECONDS / 4


def test_a_file_without_an_end_is_not_read(command: Contained, tmp_path: Path) -> None:
    found = held(command("upgrade", "/dev/zero"))
    assert found.status == 1


def huge_length() -> bytes:
    return wire.tag(100, 2) + wire.varint(2**40) + b"x"


def huge_shape() -> bytes:
    return wire.layer(wire.dims(2**40, 2**20) + wire.chunk(5, wire.floats(1.0)))


WEIGHT_BOMBS: dict[str, Callable[[], bytes]] = {
    "a length beyond the file": huge_length,
    "a shape beyond its values": huge_shape,
    "a negative shape": lambda: wire.layer(
        wire.dims(-1, -1) + wire.chunk(5, wire.floats(1.0))
    ),
    "a million layers": lambda: wire.chunk(100, b"") * 10**6,
    "a million blobs": lambda: wire.layer(*[b""] * 10**6),
    "deep groups": lambda: wire.tag(99, 3) * 2 * 10**5,
    "200,000 unknown fields": lambda: wire.integer(999, 1) * 2 * 10**5,
    "a million axes": lambda: wire.layer(wire.dims(*[1] * 10**6)),
    "50,000 pieces": lambda: wire.layer(
        wire.dims(5 * 10**4)
        + (wire.tag(5, 5) + b"1234" + wire.integer(9, 1)) * 5 * 10**4
    ),
}


@pytest.mark.parametrize("case", WEIGHT_BOMBS)
def test_weights(case: str, command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(WEIGHT_BOMBS[case]())
    held(command("convert", NET, path, "-o", tmp_path / "out"))
    held(command("inspect", path))
    held(command("convert", path, "-o", tmp_path / "out"))
    assert case == "50,000 pieces" or not (tmp_path / "out").exists()


def test_fillers_are_bounded(command: Contained, tmp_path: Path) -> None:
    """A weights file that holds next to nothing: the rest would be made of fillers."""
    net = tmp_path / "net.prototxt"
    filled = "weight_filler { value: 1 } bias_filler { value: 1 }"
    fields = f"inner_product_param {{ num_output: 500000000 {filled} }}"
    net.write_text(one("InnerProduct", fields, data=source(1, 4)))
    weights = tmp_path / "net.caffemodel"
    weights.write_bytes(wire.layer(name="other"))
    found = held(command("convert", net, weights, "-o", tmp_path / "out"))
    assert found.status == 1
    assert "weights that no file holds take 10000000000 bytes" in found.err
    found = held(command("verify", net))
    assert "filled_bytes=N" in found.err


def test_runs_are_bounded(command: Contained, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(one("Tile", "tile_param { axis: 1 tiles: 200000000 }"))
    inputs = tmp_path / "in.npz"
    np.savez(inputs, d=np.zeros((1, 3, 1, 1), "f4"))
    out = tmp_path / "out.npz"
    limit = ("--limit", "memory_bytes=1000000000")
    net.write_text(net.read_text().replace("dim: 8", "dim: 1"))
    found = held(command("run", net, "--inputs", inputs, "--outputs", out, *limit))
    assert "one layer take 2400000012 bytes" in found.err
    found = held(command("verify", net, *limit))
    assert "computed twice, take 7200000036 bytes" in found.err


@pytest.mark.parametrize("stored", ["chunks", "nothing", "zeros"])
def test_hdf5_bombs(stored: str, command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data/conv1")
        if stored == "nothing":
            group.create_dataset("0", (2**40,), "f4")
        elif stored == "chunks":
            group.create_dataset("0", (2**40,), "f4", chunks=(2**20,), compression=9)
        else:
            group.create_dataset("0", data=np.zeros(2**22, "f4"), compression=9)
    found = held(command("convert", NET, path, "-o", tmp_path / "out"))
    assert found.status == 1
    assert "more bytes than are stored" in found.err


def test_npz_bombs(command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 75497472)}"
    head = head.ljust(117) + b"\n"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("data.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
        for _ in range(72):
            stream.write(bytes(2**22))
    assert path.stat().st_size < 2**21
    run = ("run", NET, WEIGHTS, "--inputs", path, "--outputs", tmp_path / "out.npz")
    found = held(command(*run))
    assert found.status == 1
    assert "unpacked_bytes=N" in found.err


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(2**16))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (2**14, 2**14), (8191, 8191)])
def test_image_bombs(size: tuple[int, int], tmp_path: Path, command: Contained) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    found = held(command("verify", NET, WEIGHTS, "--image", path))
    assert found.status == 1
    assert "image" in found.err


def test_mean_bombs(command: Contained, tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(wire.legacy(1, 3, 2**15, 2**15) + wire.chunk(5, wire.floats(1.0)))
    predict = ("predict", NET, WEIGHTS, DIGITS, "--mean", path)
    found = held(command(*predict))
    assert found.status == 1
    assert "at byte 0" in found.err


def test_limits_are_set_by_name(tmp_path: Path) -> None:
    text = one("ReLU", "")
    caffe2flax.convert(text)
    with (
        caffe2flax.limited(fields=3),
        pytest.raises(caffe2flax.ConversionError, match="fields and values, the limit"),
    ):
        caffe2flax.convert(text)
    with caffe2flax.limited(layers=3) as limits:
        assert limits == current() == Limits(layers=3)
    assert current() == Limits()
    with pytest.raises(TypeError), caffe2flax.limited(nothing=1):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_is_an_option_and_documented(name: str) -> None:
    options = parser().parse_args(["convert", "net", "--limit", f"{name}=7"])
    assert options.limits == {name: 7}
    text = (ROOT / ".github" / "SECURITY.md").read_text()
    assert f"`{name}`" in text
    default = getattr(Limits(), name)
    assert name == "memory_bytes" or f"{default:,}" in text
