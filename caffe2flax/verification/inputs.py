"""Inputs to run a net on: arrays, a photo, or noise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError
from caffe2flax.files.npz import read_npz
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layout import Shape
from caffe2flax.limits import current
from caffe2flax.passes.transform import image_input
from caffe2flax.prediction.images import Recipe, decode
from caffe2flax.prediction.preparation import recipe
from caffe2flax.weights.variables import check_filled

Array = NDArray[Any]
Arrays = Mapping[str, Array]

SEED = 0
NOISE = f"numpy's default_rng({SEED}), standard_normal unless a layer needs others"
"""What `noise` gives, in words."""


def read_arrays(inputs: Arrays | str | os.PathLike[str] | None) -> Arrays:
    """Arrays by blob, read from an .npz where a path is given. Raises
    ConversionError."""
    if inputs is None:
        return {}
    if isinstance(inputs, str | os.PathLike):
        return read_npz(Path(inputs))
    return inputs


def noise(graph: Graph, given: Arrays) -> dict[str, Array]:
    """`given`, and noise for the other inputs, the same at every call: normal, or the
    example of a layer that reads the input. Caffe's axis order, float32. Raises
    ConversionError where the net does not fit into memory."""
    limits = current()
    # A float32 from the module and a float64 from the reference.
    needed = 12 * sum(map(prod, graph.shapes.values()))
    if needed > limits.memory_bytes:
        text = f"the blobs, computed twice, take {needed} bytes"
        raise ConversionError(limits.refusal("memory_bytes", text))
    readers = graph.readers()
    arrays: dict[str, Array] = dict(given)
    generator = np.random.default_rng(SEED)
    for value in graph.arguments:
        shape = graph.shapes[value]
        usual = generator.standard_normal(shape)
        special = None
        for node in readers.get(value, ()):
            shapes = [graph.shapes[v] for v in node.inputs]
            bottom = node.inputs.index(value)
            special = node.layer.example(bottom, generator, *shapes)
            if special is not None:
                break
        array = usual if special is None else special
        arrays.setdefault(value.blob, array.astype(np.float32))
    return arrays


def noise_blobs(graph: Graph) -> dict[tuple[int, int], Array]:
    """Random weights, the same at every call, with which no layer gives only zeros and
    nothing overflows: fillers may be zeros, which do not test a layer."""
    blobs: dict[tuple[int, int], Array] = {}
    check_filled(dict.fromkeys(w for node in graph.nodes for w in node.weights))
    for node in graph.nodes:
        for weight in node.weights:
            key = (weight.owner, weight.index)
            if key not in blobs:
                generator = np.random.default_rng([SEED, *key])
                blobs[key] = _some(weight.shape, generator).astype(np.float32)
    return blobs


def _some(shape: Shape, generator: np.random.Generator) -> Array:
    """Random weights: a matrix whose products are about as large as its inputs, or
    numbers near 1 for what may be a variance, a factor or a bias."""
    if sum(extent > 1 for extent in shape) < 2:
        return generator.uniform(0.5, 1.5, shape)
    return generator.normal(0, np.sqrt(2 / prod(shape[1:])), shape)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph as the net's input. arrays: by blob. size: its height and width.
    words: how it was prepared."""

    path: Path
    recipe: Recipe
    size: tuple[int, int]
    arrays: Arrays
    words: str


def prepare_photo(graph: Graph, path: str | os.PathLike[str]) -> Photo:
    """The net's image input, filled with one photo as Caffe's tools prepare it. Raises
    ConversionError where there is no such input, or where the file is no image."""
    value = image_input(graph)
    images, _ = recipe(graph)
    image = decode(Path(path), images.channels)
    pixels = images.prepare(image).transpose(2, 0, 1)
    size = (image.shape[0], image.shape[1])
    arrays = {value.blob: np.broadcast_to(pixels, graph.shapes[value])}
    words = f"{os.fspath(path)}, {images.words}"
    return Photo(Path(path), images, size, arrays, words)
