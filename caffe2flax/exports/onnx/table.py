"""The table of layer types that have ONNX operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from caffe2flax.exports.onnx.program import Place
from caffe2flax.ir.layer import Layer

Written = str | Sequence[str]
"""The value of the only top, or those of all tops."""
Write = Callable[[Place, Any], Written]

TABLE: dict[type[Layer], Write] = {}
"""The function for each class of layers. A class that another is derived from does not
count for that: it may compute something else."""


def writes(*types: type[Layer]) -> Callable[[Write], Write]:
    """Registers a function for layer types. It adds the operations of a layer, and
    raises ConversionError where ONNX cannot say exactly what Caffe computes."""

    def register(function: Write) -> Write:
        for each in types:
            assert each not in TABLE, each
            TABLE[each] = function
        return function

    return register
