"""What a net is run on: arrays, a photo, or noise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir import Graph, Value
from caffe2flax.layout import Shape
from caffe2flax.npz import read_npz
from caffe2flax.transform import Transform

Array = NDArray[Any]
Arrays = Mapping[str, Array]

SEED = 0
MOST_PIXELS = 2**28
"""Of a photo; a small file can claim more than any memory holds."""


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
    """The net's image input, filled with one picture: resized to the input's size, its
    channels in the order B, G, R, less the means and times the scale that the net
    names. Raises ConversionError where there is no such input, or no picture."""
    images = [v for v in graph.arguments if len(graph.shapes[v]) == 4]
    fitting = [v for v in images if graph.shapes[v][1] in (1, 3)]
    if not fitting:
        text = "the net has no input of 1 or 3 channels that a picture could go into"
        raise ConversionError(Problem(text, Span(os.fspath(path))))
    value: Value = fitting[0]
    shape = graph.shapes[value]
    pixels = _decoded(path, shape)
    prepared = _prepared(pixels, graph.transforms.get(value.blob))
    return {value.blob: np.broadcast_to(prepared, shape).astype(np.float32)}


def _decoded(path: str | os.PathLike[str], shape: Shape) -> Array:
    """(C, H, W), 0 to 255, B before G before R."""
    # Imported here: nothing else needs it.
    from PIL import Image, UnidentifiedImageError

    _, channels, height, width = shape
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            mode = "RGB" if channels == 3 else "L"
            sized = picture.convert(mode).resize((width, height), _bilinear())
            pixels = np.asarray(sized, np.float64)
    except UnidentifiedImageError:
        problem = Problem("this is no picture", Span(os.fspath(path)))
        raise ConversionError(problem) from None
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problem = Problem(f"this picture is damaged: {error}", Span(os.fspath(path)))
        raise ConversionError(problem) from None
    return pixels.transpose(2, 0, 1)[::-1] if channels == 3 else pixels[None]


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR


def _prepared(pixels: Array, transform: Transform | None) -> Array:
    if transform is None:
        return pixels
    means = np.array(transform.mean_value or (0.0,)).reshape(-1, 1, 1)
    return np.asarray((pixels - means) * transform.scale)
