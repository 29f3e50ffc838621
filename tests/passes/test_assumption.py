"""Inputs whose size only the data has: a usual one that suits net and weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from tests.single import weights_file

CONV = (
    "layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' "
    "convolution_param { num_output: 2 kernel_size: 5 } }"
)
FLAT = (
    "layer { name: 'fc' type: 'InnerProduct' bottom: '%s' top: 'fc' "
    "inner_product_param { num_output: 3 } }"
    "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'fc' bottom: 'label' "
    "top: 'loss' }"
)
FC = FLAT % "conv"


def source(type_: str, params: str) -> str:
    tops = "top: 'data' top: 'label'"
    return f"layer {{ name: 'd' type: '{type_}' {tops} {params} }}"


STORED = source("Data", "data_param { batch_size: 4 }")
COLOURED = source(
    "Data",
    "transform_param { mean_value: [1, 2, 3] } data_param { batch_size: 4 }",
)
FILES = source("ImageData", "image_data_param { batch_size: 2 }")
ARRAYS = source("HDF5Data", "hdf5_data_param { batch_size: 5 }")


def reshape(*dims: int) -> str:
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return (
        "layer { name: 'r' type: 'Reshape' bottom: 'data' top: 'r' "
        f"reshape_param {{ shape {{ {shape} }} }} }}" + FLAT % "r"
    )


CASES: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "stored": (STORED + CONV + FC, "TEST", {"data": (4, 3, 32, 32)}),
    "of known channels": (COLOURED + CONV + FC, "TEST", {"data": (4, 3, 224, 224)}),
    "from files": (FILES + CONV + FC, "TEST", {"data": (2, 3, 224, 224)}),
    "no other will do": (
        STORED + reshape(4, 3, 64, 64),
        "TEST",
        {"data": (4, 3, 64, 64)},
    ),
    "of one channel": (STORED + reshape(4, 1, 784), "TEST", {"data": (4, 1, 28, 28)}),
    "a vector": (ARRAYS + FLAT % "data", "TEST", {"data": (5, 100)}),
    "an array": (ARRAYS + CONV + FC, "TEST", {"data": (5, 3, 224, 224)}),
    "with labels": (
        ARRAYS + FLAT % "data",
        "TRAIN",
        {"data": (5, 100), "label": (5,)},
    ),
    "with labels like it": (
        ARRAYS
        + CONV
        + "layer { name: 'e' type: 'EuclideanLoss' bottom: 'label' bottom: 'data' "
        "top: 'e' }",
        "TRAIN",
        {"data": (5, 3, 224, 224), "label": (5, 3, 224, 224)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_assumed(name: str) -> None:
    text, phase, shapes = CASES[name]
    conversion = caffe2flax.convert(text, phase=phase)
    graph = conversion.graph
    assert {v.blob: graph.shapes[v] for v in graph.arguments} == shapes
    assert {v.blob for v in graph.sizes.assumed} == set(shapes)
    notes = [note for note in conversion.notes if "taken to be" in note]
    assert len(notes) == len(shapes)
    for note, (blob, shape) in zip(notes, shapes.items(), strict=True):
        assert re.search(rf"blob {blob!r} (is|are) in", note)
        assert f"{shape}, and the module takes no other: --input-shape {blob}=" in note


def test_the_module_takes_no_other() -> None:
    model: Any = caffe2flax.load(STORED + CONV + FC)
    assert model(jnp.zeros((7, 32, 32, 3))).shape == (7, 3)
    for call in (model, jax.jit(model)):
        with pytest.raises(ValueError, match=r"data must be \(N, 32, 32, 3\)"):
            call(jnp.zeros((4, 33, 32, 3)))


TOLD: dict[str, dict[str, Any]] = {
    "by the caller": {"input_shapes": {"data": (1, 1, 9, 8)}},
    "by what is fed": {},
}


@pytest.mark.parametrize("name", TOLD)
def test_nothing_is_assumed_where_it_is_told(name: str) -> None:
    fed = np.zeros((1, 1, 9, 8), np.float32)
    found = caffe2flax.run(STORED + CONV + FC, None, {"data": fed}, **TOLD[name])
    assert found["fc"].shape == (1, 3)
    graph = caffe2flax.convert(
        STORED + CONV + FC, input_shapes={"data": fed.shape}
    ).graph
    assert not graph.sizes.assumed


def trained(path: Path, channels: int, inputs: int, extra: int = 0) -> Path:
    kernel = np.zeros((2, channels, 5, 5)), np.zeros(2)
    rows = np.zeros((3, inputs)), np.zeros(3 + extra)
    return weights_file(path, {"conv": kernel, "fc": rows})


@pytest.mark.parametrize(
    ("channels", "size"), [(3, 32), (1, 28), (3, 224), (1, 64), (3, 300)]
)
def test_weights_tell(tmp_path: Path, channels: int, size: int) -> None:
    weights = trained(tmp_path / "w.caffemodel", channels, 2 * (size - 4) ** 2)
    conversion = caffe2flax.convert(STORED + CONV + FC, weights)
    (value,) = conversion.graph.arguments
    assert conversion.graph.shapes[value] == (4, channels, size, size)
    assert any("which the weights fit" in note for note in conversion.notes)


def test_weights_that_fit_no_usual_size(tmp_path: Path) -> None:
    weights = trained(tmp_path / "w.caffemodel", 3, 2 * 7**2)
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(STORED + CONV + FC, weights)
    assert "give --input-shape data=N,C,H,W" in refused.value.problems[0].message
    found = caffe2flax.convert(
        STORED + CONV + FC, weights, input_shapes={"data": (1, 3, 11, 11)}
    )
    assert not found.graph.sizes.assumed
