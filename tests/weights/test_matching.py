"""Weights find their layers as in Caffe's CopyTrainedLayersFrom; what finds none, or
does not fit, is said with its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

import caffe2flax
from caffe2flax.errors import ConversionError
from tests import wireformat
from tests.golden import FIXTURES
from tests.smallnets import net, numbers, save

Entries = Sequence[tuple[str, Sequence[np.ndarray]]]


def dense(name: str, bottom: str, top: str, width: int = 3, more: str = "") -> str:
    return (
        f'name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {more} '
        f"inner_product_param {{ num_output: {width} }}"
    )


def entries(path: Path, layers: Entries) -> Path:
    """A caffemodel that may hold a name twice."""
    path.write_bytes(
        b"".join(
            wireformat.layer(
                *(
                    wireformat.dims(*b.shape)
                    + wireformat.chunk(5, wireformat.floats(*b.ravel()))
                    for b in blobs
                ),
                name=name,
            )
            for name, blobs in layers
        )
    )
    return path


def hdf5(path: Path, layers: Entries) -> Path:
    with h5py.File(path, "w") as file:
        for name, blobs in layers:
            group = file.create_group(f"data/{name}")
            for i, blob in enumerate(blobs):
                group[str(i)] = blob
    return path


TWINS = net(dense("ip", "x", "a"), dense("ip", "a", "b"), x=(2, 3))
ONE = [numbers(3, 3, seed=1), numbers(3, seed=1)]
TWO = [numbers(3, 3, seed=2), numbers(3, seed=2)]
W, B = 'param { name: "w" }', 'param { name: "b" }'


@pytest.mark.parametrize(
    "layers",
    [[("ip", ONE)], [("ip", ONE), ("ip", TWO), ("ip", TWO)]],
    ids=["weights for one", "weights for three"],
)
def test_two_layers_of_one_name(layers: Entries, tmp_path: Path) -> None:
    """Caffe fills the first, twice perhaps; the other is named with its line."""
    path = entries(tmp_path / "net.caffemodel", layers)
    with pytest.raises(ConversionError) as refused:
        caffe2flax.convert(TWINS, path)
    (problem,) = refused.value.problems
    assert problem.line == 3
    assert "layer 'ip' has no weights: another layer has its name" in problem.message
    assert "(<prototxt>:2:7)" in problem.message
    assert f"{len(layers)} layer" in problem.message
    trained = caffe2flax.convert(TWINS, path, phase="TRAIN")
    assert np.array_equal(trained.blobs[1, 0], layers[-1][1][0])
    assert not trained.blobs[2, 0].any()
    (note,) = trained.notes
    assert note.endswith("start from their fillers: ip (<prototxt>:3:7)")


def test_a_file_of_all_layers_of_one_name() -> None:
    """Caffe's own snapshot of such a net; tests/layers has the numbers that it recorded
    with it, of a second layer of zeros."""
    case = FIXTURES / "layers" / "dup_layer_names.prototxt"
    made = caffe2flax.convert(case, case.with_suffix(".caffemodel"))
    (note,) = made.notes
    assert "start from their fillers: fc (" in note


def test_two_layers_of_one_name_that_share(tmp_path: Path) -> None:
    """Then both are filled."""
    layers = (dense("ip", "x", "a", 3, W + B), dense("ip", "a", "b", 3, W + B))
    path = entries(tmp_path / "net.caffemodel", [("ip", ONE), ("ip", TWO)])
    made = caffe2flax.convert(net(*layers, x=(2, 3)), path)
    assert not made.notes
    assert np.array_equal(made.blobs[1, 0], TWO[0])


def test_the_wrong_number(tmp_path: Path) -> None:
    """A layer without blobs is no exception in a binary file."""
    one = net(dense("ip", "x", "a"), x=(2, 3))
    for layers in ([("ip", ONE), ("ip", [])], [("ip", ONE[:1])]):
        path = entries(tmp_path / "net.caffemodel", layers)
        with pytest.raises(ConversionError, match=r"blobs, the net's has 2 \(.*:2:7\)"):
            caffe2flax.convert(one, path)


def test_a_name_that_is_an_inputs(tmp_path: Path) -> None:
    """The first layer of the name has no blobs: Caffe aborts."""
    text = net(dense("x", "x", "a"), x=(2, 3))
    path = entries(tmp_path / "net.caffemodel", [("x", ONE)])
    with pytest.raises(ConversionError, match=r"has 2 blobs, the net's has 0 \(.*:1:7"):
        caffe2flax.convert(text, path)


def test_hdf5_fills_the_last_of_a_name(tmp_path: Path) -> None:
    """Its layers are looked up in Caffe's index of names, which keeps the last."""
    path = hdf5(tmp_path / "net.caffemodel.h5", [("ip", ONE)])
    with pytest.raises(ConversionError) as refused:
        caffe2flax.convert(TWINS, path)
    (problem,) = refused.value.problems
    assert problem.line == 2
    trained = caffe2flax.convert(TWINS, path, phase="TRAIN")
    assert np.array_equal(trained.blobs[2, 0], ONE[0])


def test_hdf5_leaves_out_what_another_layer_owns(tmp_path: Path) -> None:
    text = net(dense("a", "x", "a", 3, W + B), dense("b", "a", "b", 3, W + B), x=(2, 3))
    path = hdf5(tmp_path / "net.caffemodel.h5", [("a", ONE), ("b", [])])
    assert not caffe2flax.convert(text, path).notes
    own_bias = net(dense("a", "x", "a", 3, W), dense("b", "a", "b", 3, W), x=(2, 3))
    with h5py.File(path, "w") as file:
        for key, blob in (("a/0", ONE[0]), ("a/1", ONE[1]), ("b/1", TWO[1])):
            file[f"data/{key}"] = blob
    made = caffe2flax.convert(own_bias, path)
    assert not made.notes
    assert np.array_equal(made.blobs[2, 1], TWO[1])
    apart = net(dense("a", "x", "a"), dense("b", "a", "b"), x=(2, 3))
    with pytest.raises(ConversionError, match="has 1 blobs, the net's has 2"):
        caffe2flax.convert(apart, path)
    with h5py.File(path, "a") as file:
        file["data/b/bias"] = TWO[1]
    with pytest.raises(ConversionError, match="datasets that are no blobs: bias"):
        caffe2flax.convert(own_bias, path)
    path = hdf5(path, [("a", []), ("b", ONE)])
    with pytest.raises(ConversionError, match="has 0 blobs, the net's has 2"):
        caffe2flax.convert(text, path)


CHAIN = net(
    dense("one", "x", "one", 4),
    dense("two", "one", "two", 5),
    dense("three", "two", "three", 6),
    dense("four", "three", "four", 7),
    x=(2, 3),
)
SIZES = {"one": (4, 3), "two": (5, 4), "three": (6, 5), "four": (7, 6)}
WEIGHTS = {name: [numbers(*s), numbers(s[0])] for name, s in SIZES.items()}
REFUSED = {
    "no name agrees": (
        {f"conv{i}": ONE for i in range(9)},
        r"another net, 'net': 9 layers with weights \(conv0, .* and 3 more\); of the 4 "
        r"layers with weights of this net \(one, two, three, four\) 0 are in it",
    ),
    "one name agrees": (
        {"one": WEIGHTS["one"], **{f"conv{i}": ONE for i in range(9)}},
        "1 are in it by name; give the weights of this net, or the prototxt of",
    ),
    "two names agree, sizes do not": (
        {"one": TWO, "two": TWO, "ip1": TWO, "ip2": TWO},
        "2 are in it by name, and 2 of those other shapes",
    ),
    "names agree, sizes do not": (
        {**dict.fromkeys(SIZES, TWO), "one": WEIGHTS["one"]},
        "4 are in it by name, and 3 of those other shapes",
    ),
    "one layer is missing": (
        {name: WEIGHTS[name] for name in ("one", "two", "four")},
        "^<prototxt>:4:7: error: layer 'three' has no weights in the file; the file "
        "holds one, two, four; a weight_filler",
    ),
    "another number of classes": (
        {**WEIGHTS, "four": [numbers(9, 6), numbers(9)]},
        r"blob 0 has shape \(9, 6\), the net's \(7, 6\) \(<prototxt>:5:7\)(.|\n)*to "
        r"learn four afresh .*, rename .*; or .* from_pretrained\(num_classes=7\)",
    ),
    "another size within": (
        {**WEIGHTS, "two": [numbers(9, 4), numbers(9)]},
        "to learn two afresh in another size, rename .* starts from its weight_filler$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit(name: str, tmp_path: Path) -> None:
    """One message for a file of another net; a remedy for a layer of another size."""
    weights, expected = REFUSED[name]
    path = save(tmp_path / "net.caffemodel", weights)
    with pytest.raises(ConversionError) as refused:
        caffe2flax.convert(CHAIN, path)
    told = str(refused.value)
    assert re.search(expected, told), told
    assert told.count("\n") <= 3


def test_fresh_layers_of_a_renamed_head(tmp_path: Path) -> None:
    """What the message tells to do works: rename, and give a filler."""
    filler = 'weight_filler { type: "xavier" }'
    renamed = CHAIN.replace('name: "four"', 'name: "fresh"')
    renamed = renamed.replace("num_output: 7", f"num_output: 9 {filler}")
    path = save(tmp_path / "net.caffemodel", WEIGHTS)
    notes = caffe2flax.convert(renamed, path).notes
    assert notes == (
        "weights of layers that the net lacks are left out: four",
        "layers without weights start from their fillers: fresh",
    )


NORM = 'name: "{0}" type: "BatchNorm" bottom: "{1}" top: "{0}"'
NORMS = net(NORM.format("b1", "x"), NORM.format("b2", "b1"), x=(2, 3, 4, 4))
ZERO, SOME = np.zeros(1, np.float32), np.ones(3, np.float32)
NOUGHT = np.zeros(3, np.float32)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_a_factor_of_zero(phase: str, tmp_path: Path) -> None:
    """A note, one for all layers, whose remedy gives the statistics their say."""
    weights = {"b1": [SOME, 4 * SOME, ZERO], "b2": [NOUGHT, SOME, ZERO]}
    path = save(tmp_path / "net.caffemodel", weights)
    notes = caffe2flax.convert(NORMS, path, phase=phase).notes
    told = [note for note in notes if "--dialect BatchNorm=nvcaffe" in note]
    assert [note.partition(":")[0] for note in told] == ["b1, b2"] * (phase == "TEST")
    dialect = {"BatchNorm": "nvcaffe"}
    made = caffe2flax.convert(NORMS, path, phase=phase, dialect=dialect)
    assert not [note for note in made.notes if "third blob" in note]
    assert made.weights is not None
    assert np.array_equal(made.weights["b1.var"], 4 * SOME)


@pytest.mark.parametrize(
    "blobs", [(SOME, SOME, SOME[:1]), (NOUGHT, NOUGHT, ZERO)], ids=["one", "all zero"]
)
def test_factors_that_mean_something(
    blobs: Sequence[np.ndarray], tmp_path: Path
) -> None:
    path = save(tmp_path / "net.caffemodel", {"b1": blobs, "b2": blobs})
    assert not caffe2flax.convert(NORMS, path).notes
