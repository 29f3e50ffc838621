"""Nets of a few layers, written in the test that needs them, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import caffe2flax
from caffe2flax.reference import evaluate
from tests import wireformat
from tests.golden import Arrays

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
