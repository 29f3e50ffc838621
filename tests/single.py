"""Small nets written in a line; generated module and float64 reference are compared
with numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import caffe2flax
from caffe2flax.verification import reference
from tests import wireformat as wire
from tests.golden import distance

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(20)


def source(blob: str, shape: Sequence[int]) -> str:
    """An Input layer."""
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return (
        f'layer {{ name: "{blob}" type: "Input" top: "{blob}" '
        f"input_param {{ shape {{ {dims} }} }} }}\n"
    )


def single(type_: str, text: str, *shapes: Sequence[int], tops: str = "out") -> str:
    """A layer `l` of `type_` on inputs x0, x1, ... of these shapes."""
    names = [f"x{i}" for i in range(len(shapes))]
    bottoms = " ".join(f'bottom: "{name}"' for name in names)
    made = " ".join(f'top: "{top}"' for top in tops.split())
    return (
        "".join(map(source, names, shapes))
        + f'layer {{ name: "l" type: "{type_}" {bottoms} {made} {text} }}\n'
    )


def normal(*shape: int) -> Array:
    """Random numbers about 0."""
    return RNG.normal(size=shape).astype(np.float32)


def weights_file(path: Path, blobs: Mapping[str, Sequence[Array]]) -> Path:
    """A caffemodel with these blobs."""
    layers = (
        wire.layer(
            *(wire.dims(*b.shape) + wire.chunk(5, wire.floats(*b.flat)) for b in held),
            name=name,
        )
        for name, held in blobs.items()
    )
    path.write_bytes(b"".join(layers))
    return path


def check(
    prototxt: str,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    weights: Path | None = None,
    tolerance: float = 1e-5,
    **options: Any,
) -> caffe2flax.Conversion:
    """Compares the outputs of module and reference with `expected`."""
    ours = caffe2flax.run(prototxt, weights, dict(inputs), **options)
    conversion = caffe2flax.convert(prototxt, weights, taps="all", **options)
    graph = conversion.graph
    values = reference.evaluate(graph, conversion.blobs, inputs)
    told = {v.blob: values[v] for v in (*graph.outputs, *graph.taps)}
    for name, array in expected.items():
        for what, found in (("module", ours[name]), ("reference", told[name])):
            assert found.shape == array.shape, (what, found.shape, array.shape)
            assert distance(found, array) <= tolerance, what
    return conversion
