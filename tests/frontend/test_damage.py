"""Cut and damaged files: the numbers that Caffe wrote, or an error with its place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.errors import ConversionError
from caffe2flax.frontend import caffemodel
from caffe2flax.frontend.prototxt import parse
from tests.fuzz import wire
from tests.golden import FIXTURES
from tests.smallnets import net, numbers, save, single
from tests.wireformat import chunk, dims, doubles, layer

SHAPES = {"conv1": ((16, 3, 5, 5), (16,)), "fc2": ((10, 400), (10,)), "fc3": ((4, 10),)}
NET = net(
    'name: "conv1" type: "Convolution" bottom: "x" top: "conv1" '
    "convolution_param { num_output: 16 kernel_size: 5 }",
    'name: "pool" type: "Pooling" bottom: "conv1" top: "pool" '
    "pooling_param { kernel_size: 2 stride: 2 }",
    'name: "fc2" type: "InnerProduct" bottom: "pool" top: "fc2" '
    "inner_product_param { num_output: 10 }",
    'name: "fc3" type: "InnerProduct" bottom: "fc2" top: "fc3" '
    "inner_product_param { num_output: 4 bias_term: false }",
    x=(1, 3, 14, 14),
)
WEIGHTS = {
    name: [numbers(*shape, seed=sum(shape)) for shape in SHAPES[name]]
    for name in SHAPES
}
Tensors = Mapping[tuple[str, int], np.ndarray]


def tensors(path: Path) -> Tensors | str:
    """The arrays of a file by layer and index, or why there are none."""
    try:
        file = caffemodel.read(path)
    except ConversionError as error:
        return str(error)
    return {
        (each.name, i): np.array(blob)
        for each in file.layers
        for i, blob in enumerate(each.blobs)
    }


def converted(path: Path) -> caffe2flax.Conversion | str:
    try:
        return caffe2flax.convert(NET, path)
    except ConversionError as error:
        return str(error)


def only(weights: Mapping[str, np.ndarray], variable: str) -> np.ndarray:
    (found,) = (weights[name] for name in weights if name.endswith(f".{variable}"))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole") / "net.caffemodel", WEIGHTS)


def test_cut_at_every_byte(whole: Path, tmp_path: Path) -> None:
    """20 KB: refused with a byte, or cut between two layers; those before are there
    as they were, and the net misses the others."""
    data = whole.read_bytes()
    assert 18_000 < len(data) < 25_000
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    between = 0
    for size in range(len(data) - 1, 0, -1):
        os.truncate(path, size)
        found = tensors(path)
        if isinstance(found, str):
            assert re.search("at byte [0-9]+", found)
            continue
        between += 1
        for (name, i), array in found.items():
            assert np.array_equal(array, WEIGHTS[name][i])
        refused = converted(path)
        assert isinstance(refused, str)
        assert "has no weights in the file" in refused
    assert between == len(WEIGHTS) - 1


def test_every_bit_of_the_structure(whole: Path, tmp_path: Path) -> None:
    """Every bit that is no part of a number: the net is refused, or gets the tensors
    that were written."""
    data = bytearray(whole.read_bytes())
    path = tmp_path / "net.caffemodel"
    held = [
        np.ascontiguousarray(b, "<f4").tobytes() for w in WEIGHTS.values() for b in w
    ]
    numbers_at = [(data.index(piece), len(piece)) for piece in held]
    inside = {at + i for at, size in numbers_at for i in range(size)}
    right = converted(whole)
    assert isinstance(right, caffe2flax.Conversion)
    kept = 0
    for at in range(len(data)):
        for bit in range(8) if at not in inside else ():
            data[at] ^= 1 << bit
            path.write_bytes(data)
            data[at] ^= 1 << bit
            made = converted(path)
            if isinstance(made, str):
                assert "error: " in made
                continue
            kept += 1
            assert right.weights is not None
            assert made.weights is not None
            for name, array in right.weights.items():
                assert np.array_equal(made.weights[name], array)
    assert kept >= 24, "the name of the net is three bytes"


def test_every_bit_of_a_legacy_file(tmp_path: Path) -> None:
    """V0, V1 and V2 as Caffe wrote them: protobuf is the judge in tests/fuzz; here no
    flip may end in anything but tensors or an error with its byte."""
    path = tmp_path / "net.caffemodel"
    for name in ("v1_deconv.caffemodel", "lstm_static.caffemodel"):
        data = bytearray((FIXTURES / "caffemodel" / name).read_bytes())
        for at in range(len(data)):
            data[at] ^= 1 << at % 8
            path.write_bytes(data)
            data[at] ^= 1 << at % 8
            found = tensors(path)
            assert not isinstance(found, str) or "at byte " in found


TEXTS = ("v0_convnet", "text_quirks", "v1_misc")


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_cut_at_every_token(name: str) -> None:
    """It ends between two fields of the net, or the error is on its last line."""
    text = (FIXTURES / "upgrade" / f"{name}.prototxt").read_text()
    for end in (match.start() for match in re.finditer(r"\S+", text)):
        part = text[:end]
        try:
            fields = parse(part).fields
        except ConversionError as error:
            (problem,) = error.problems
            assert problem.line is not None
            assert 0 < problem.line <= part.count("\n") + 1
            continue
        assert fields == parse(text).fields[: len(fields)]


def test_a_layer_without_weights(whole: Path, tmp_path: Path) -> None:
    """Its filler counts where the net gives one, and in training."""
    few = {name: WEIGHTS[name] for name in ("conv1", "fc2")}
    path = save(tmp_path / "few.caffemodel", few)
    with pytest.raises(ConversionError, match="layer 'fc3' has no weights"):
        caffe2flax.convert(NET, path)
    told = "layers without weights start from their fillers: fc3"
    assert told in caffe2flax.convert(NET, path, phase="TRAIN").notes
    filler = 'weight_filler { type: "xavier" } bias_term'
    filled = NET.replace("bias_term", filler)
    assert told in caffe2flax.convert(filled, path).notes
    renamed = save(tmp_path / "other.caffemodel", {**few, "fc_3": WEIGHTS["fc3"]})
    with pytest.raises(ConversionError, match=r"did you mean fc_3\?"):
        caffe2flax.convert(NET, renamed)


def test_no_numbers_are_reported_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = numbers(4, 3)
    kernel[0, 0], kernel[1, 1:], kernel[2, 2] = np.nan, np.inf, -np.inf
    text = net(
        single("InnerProduct", "inner_product_param { num_output: 4 }"), x=(2, 3)
    )
    path = save(tmp_path / "net.caffemodel", {"l": [kernel, numbers(4)]})
    told = (
        "weights that are no finite float32 numbers are kept: "
        "layer 'l' blob 0 (1 NaN, 3 infinite of 12)"
    )
    conversion = caffe2flax.convert(text, path)
    assert told in conversion.notes
    assert conversion.weights is not None
    stored = only(conversion.weights, "kernel")
    np.testing.assert_array_equal(
        np.sort(stored, axis=None), np.sort(kernel, axis=None)
    )
    source = tmp_path / "net.prototxt"
    source.write_text(text)
    assert main(["convert", str(source), str(path), "-o", str(tmp_path / "out")]) == 0
    assert f"note: {told}" in capsys.readouterr().out


def test_numbers_beyond_float32_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer(dims(1, 2) + chunk(8, doubles(1e300, 1)), name="l"))
    text = net(
        single(
            "InnerProduct", "inner_product_param { num_output: 1 bias_term: false }"
        ),
        x=(2, 2),
    )
    conversion = caffe2flax.convert(text, path)
    assert any("(0 NaN, 1 infinite of 2)" in note for note in conversion.notes)
    assert conversion.weights is not None
    assert [*only(conversion.weights, "kernel").ravel()] == [np.inf, 1]


def test_many_odd_blobs_are_one_note(tmp_path: Path) -> None:
    layers = [
        f'name: "l{i}" type: "InnerProduct" bottom: "x" top: "y{i}" '
        "inner_product_param { num_output: 1 bias_term: false }"
        for i in range(20)
    ]
    odd = {f"l{i}": [np.full((1, 2), np.nan, np.float32)] for i in range(20)}
    path = save(tmp_path / "net.caffemodel", odd)
    (told,) = caffe2flax.convert(net(*layers, x=(2, 2)), path).notes
    assert told.endswith(" and 12 more")


def test_the_wire_mutations_encode_what_they_parse(whole: Path) -> None:
    data = whole.read_bytes()
    parts = wire.parsed(data)
    assert parts is not None
    assert wire.encoded(parts) == data
