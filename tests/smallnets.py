"""Nets of a few layers, written in the test that needs them, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import caffe2flax
from caffe2flax.verification.reference import evaluate
from tests import wireformat
from tests.golden import Arrays, distance

Weights = Mapping[str, Sequence[np.ndarray]]


def net(*layers: str, **inputs: tuple[int, ...]) -> str:
    """A prototxt: an Input layer for each of `inputs`, by shape, then `layers`."""
    lines = []
    for name, shape in inputs.items():
        dims = " ".join(f"dim: {extent}" for extent in shape)
        given = f"input_param {{ shape {{ {dims} }} }}"
        lines.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" {given} }}')
    return "\n".join([*lines, *(f"layer {{ {layer} }}" for layer in layers)])


def save(path: Path, weights: Weights) -> Path:
    """A caffemodel with these blobs, by layer."""
    layers = []
    for name, blobs in weights.items():
        chunks = [
            wireformat.dims(*blob.shape)
            + wireformat.chunk(5, np.ascontiguousarray(blob, "<f4").tobytes())
            for blob in blobs
        ]
        layers.append(wireformat.layer(*chunks, name=name, type=""))
    path.write_bytes(wireformat.chunk(1, "net") + b"".join(layers))
    return path


def expected(text: str, weights: Path | None, inputs: Arrays, **options: Any) -> Arrays:
    """The outputs by the float64 reference."""
    conversion = caffe2flax.convert(text, weights, **options)
    values = evaluate(conversion.graph, conversion.blobs, inputs)
    return {value.blob: values[value] for value in conversion.graph.outputs}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers, the same at every call."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def single(type_: str, parameters: str = "", *more: str, top: str = "y") -> str:
    """A layer "l" from x, and more, to `top`."""
    bottoms = " ".join(f'bottom: "{name}"' for name in ("x", *more))
    return f'name: "l" type: "{type_}" {bottoms} top: "{top}" {parameters}'


def run(text: str, weights: Path | None = None, **inputs: Any) -> np.ndarray:
    """The only output; the reference must give the same. `phase` is no input."""
    options = {key: inputs.pop(key) for key in ("phase",) if key in inputs}
    (y,) = caffe2flax.run(text, weights, inputs, **options).values()
    (told,) = expected(text, weights, inputs, **options).values()
    assert distance(y, told) <= 1e-5
    return y


def lying(blob: np.ndarray, x: np.ndarray, start: int) -> np.ndarray:
    """`blob` along the axes of x from `start` on."""
    rest = x.ndim - start - blob.ndim
    return blob.reshape((1,) * start + blob.shape + (1,) * rest)
