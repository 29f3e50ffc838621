"""What a net is run on: arrays, a photo, or noise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.ir import Graph
from caffe2flax.npz import read_npz
from caffe2flax.preparation import image_input, recipe

Array = NDArray[Any]
Arrays = Mapping[str, Array]

SEED = 0


def read_arrays(inputs: Arrays | str | os.PathLike[str] | None) -> Arrays:
    """Arrays by blob, out of an .npz where a path is given. Raises ConversionError."""
    if inputs is None:
        return {}
    if isinstance(inputs, str | os.PathLike):
        return read_npz(Path(inputs))
    return inputs


def noise(graph: Graph, given: Arrays) -> dict[str, Array]:
    """`given`, and noise for the other inputs, the same at every call: normal, or what
    the layers that read an input say that it may hold. Caffe's axis order, float32."""
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
        made = usual if special is None else special
        arrays.setdefault(value.blob, made.astype(np.float32))
    return arrays


def photo(graph: Graph, path: str | os.PathLike[str]) -> dict[str, Array]:
    """The net's image input, filled with one picture as Caffe's tools prepare it.
    Raises ConversionError where there is no such input, or no picture."""
    value = image_input(graph)
    made, _ = recipe(graph)
    pixels = made.read(Path(path)).transpose(2, 0, 1)
    return {value.blob: np.broadcast_to(pixels, graph.shapes[value])}
