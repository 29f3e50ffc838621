"""The values that ONNX Runtime computes from a written model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe2flax.conversion import Conversion
from caffe2flax.errors import optional
from caffe2flax.exports.onnx.model import with_outputs
from caffe2flax.exports.onnx.program import Array
from caffe2flax.exports.onnx.translate import Translation
from caffe2flax.verification.observe import Observed


def observe(
    path: Path,
    translation: Translation,
    conversion: Conversion,
    inputs: Mapping[str, Array],
) -> Observed:
    """Every blob of the model in the file `path`, in Caffe's axis order. Raises
    ConversionError where ONNX Runtime is not installed."""
    names, tensors = translation.names, translation.program.tensors
    given = {port.name: port.value for port in translation.inputs}
    computed = {name for op in translation.program.operations for name in op.outputs}
    wanted = sorted({name for name in names.values() if name in computed})
    outputs = {port.name for port in translation.outputs}
    others = [name for name in wanted if name not in outputs]
    session = _session(path, others)
    arrays = {
        name: np.asarray(inputs[value.blob], np.float32, order="C")
        for name, value in given.items()
    }
    found: dict[str, Array] = dict(
        zip(wanted, session.run(wanted, arrays) if wanted else (), strict=True)
    )
    known = {**tensors, **arrays, **found}
    return Observed({value: known[name] for value, name in names.items()})


def runtime() -> Any:
    """ONNX Runtime. Raises ConversionError where it is not installed."""
    with optional("the check of an ONNX model", "onnxruntime", "onnx"):
        import onnxruntime
    return onnxruntime


def _session(path: Path, wanted: Sequence[str]) -> Any:
    """A session of the model that also gives `wanted`."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(path.parent.resolve()))
    content = path.read_bytes() + with_outputs(wanted)
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
