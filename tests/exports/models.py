"""Models of conversions, and what ONNX Runtime computes from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe2flax.conversion import Conversion
from caffe2flax.exports.onnx.model import targets
from caffe2flax.exports.onnx.translate import Translation, translate
from caffe2flax.files.atomic import write_all

Arrays = dict[str, np.ndarray]


def as_onnx(
    conversion: Conversion, path: Path, dynamic: bool | None = None
) -> Translation:
    """Writes the model to `path`. Raises ConversionError."""
    translation = translate(conversion.graph, conversion.blobs, dynamic=dynamic)
    write_all(targets(translation, conversion.name, "", path), force=True)
    return translation


def taken(translation: Translation, arrays: Arrays, batch: int) -> Arrays:
    """`arrays` with as many items as `batch` where the model takes any number."""
    found = {}
    for port in translation.inputs:
        array = arrays[port.value.blob]
        if port.dims[:1] == ("N",):
            array = np.resize(array, (batch, *array.shape[1:]))
        found[port.value.blob] = array
    return found
