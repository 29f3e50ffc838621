"""A parity test of a module: a pytest file, and the arrays that it compares the module
with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.names import module_stem
from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.runner import PRECISION
from caffe2flax.verification.report import Report
from caffe2flax.verification.text import AGAINST

Array = NDArray[Any]

TEMPLATE = '''\
"""{name} computes what it did when it was verified against {against}."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parent
OUTPUTS = {outputs}
TOLERANCE = {tolerance}  # relative to the largest number in an output


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location({stem}, FOLDER / {file})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.{name}{make}


def test_outputs(model):
    with np.load(FOLDER / {archive}) as archive:
        recorded = dict(archive)
    inputs = [recorded[f"input_{{i}}"] for i in range({count})]
    with jax.default_matmul_precision({precision}):  # not TF32, not bfloat16
        found = {call}
{unpack}
    for i, name in enumerate(OUTPUTS):
        expected, ours = recorded[f"output_{{i}}"], np.asarray(outputs[name])
        ours = ours[: len(expected)] if expected.ndim else ours
        assert ours.shape == expected.shape, name
        scale = max(1e-6, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(ours / scale, expected / scale, 0, TOLERANCE, name)
'''


def parity_test(report: Report, target: Path) -> tuple[str, Mapping[str, Array]]:
    """The source of the test file `target`, and the arrays of the .npz of the same
    name, in the folder of the module. Raises ConversionError where the oracle gave no
    output, or where the module would not pass."""
    conversion = report.conversion
    graph = conversion.graph
    if report.culprit is not None:
        raise ConversionError("a module that breaks would not pass a test of itself")
    missing = [v.blob for v in graph.outputs if v.blob not in report.outputs]
    if missing:
        text = f"{report.against} gives no output {missing[0]!r} to record"
        raise ConversionError(text)
    arrays: dict[str, Array] = {}
    for i, value in enumerate(graph.arguments):
        array = report.inputs[value.blob]
        arrays[f"input_{i}"] = _moved(array, graph.layouts[value].axes)
    for i, value in enumerate(graph.outputs):
        array = report.outputs[value.blob]
        arrays[f"output_{i}"] = _moved(array, graph.layouts[value].axes)
    stem = module_stem(conversion.name)
    pretrained = "def from_pretrained" in conversion.source
    result = "found[0]" if graph.taps else "found"
    single = f"{{OUTPUTS[0]: {result}}}" if len(graph.outputs) == 1 else result
    call = "model(*inputs)"
    if not graph.dynamic:
        call = f"jax.jit(lambda model, inputs: {call})(model, inputs)"
    source = TEMPLATE.format(
        name=conversion.name,
        against=AGAINST[report.against],
        outputs=literal(tuple(v.blob for v in graph.outputs)),
        tolerance=report.tolerance,
        stem=literal(stem),
        file=literal(f"{stem}.py"),
        make=".from_pretrained()" if pretrained else "()",
        archive=literal(f"{target.stem}.npz"),
        count=len(graph.arguments),
        precision=literal(PRECISION),
        call=call,
        unpack=f"    outputs = {single}",
    )
    return format_source(source), arrays


def _moved(array: Array, axes: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(np.asarray(array, np.float32).transpose(axes))
