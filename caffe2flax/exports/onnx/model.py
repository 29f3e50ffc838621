"""Program -> an ONNX file, with the weights in it or beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from caffe2flax.errors import optional
from caffe2flax.exports.onnx.program import Array, Operation
from caffe2flax.exports.onnx.translate import Port, Translation
from caffe2flax.files.atomic import Write
from caffe2flax.files.mapped import loaded

OPSET = 17
IR_VERSION = 8
"""The version of the file format that came with that opset."""

INSIDE = 2**31 - 2**24
"""Bytes of tensors that a file holds itself: protobuf ends at 2 GB."""
SMALL = 1024
"""Bytes of tensors that are never beside the file."""
ALIGNED = 4096
"""What the offsets of tensors beside the file are multiples of."""


def targets(
    translation: Translation, name: str, version: str, path: Path
) -> dict[Path, Write]:
    """What writes each file: the model, and beside it its tensors where they are too
    large for one file. Raises ConversionError where the package onnx is not
    installed."""
    with optional("the export to ONNX", "onnx", "onnx"):
        import onnx  # noqa: F401
    tensors = translation.program.tensors
    size = sum(4 * tensor.size for tensor in tensors.values())
    beside: dict[str, Array] = {}
    if size > INSIDE:
        beside = {n: t for n, t in tensors.items() if 4 * t.size >= SMALL}
    data = path.with_name(f"{path.name}.data")
    offsets = _offsets(beside)
    model = _model(translation, name, version, data.name, offsets)
    made: dict[Path, Write] = {
        path: lambda stream: stream.write(model.SerializeToString())
    }
    if beside:
        made[data] = lambda stream: _write_beside(stream, beside, offsets)
    return made


def _offsets(tensors: dict[str, Array]) -> dict[str, int]:
    offsets, end = {}, 0
    for name, tensor in tensors.items():
        offsets[name] = end
        end = -(-(end + 4 * tensor.size) // ALIGNED) * ALIGNED
    return offsets


def _write_beside(
    stream: IO[bytes], tensors: dict[str, Array], offsets: dict[str, int]
) -> None:
    for name, tensor in tensors.items():
        stream.seek(offsets[name])
        stream.write(_in_memory(tensor).tobytes())


def _in_memory(tensor: Array) -> Array:
    """The tensor out of its file; all numbers but integers as float32."""
    held = loaded(tensor)
    kind = "<i8" if held.dtype.kind == "i" else "<f4"
    with np.errstate(over="ignore"):
        return np.asarray(held, kind, order="C")


def _model(
    translation: Translation,
    name: str,
    version: str,
    data: str,
    offsets: dict[str, int],
) -> Any:
    """The model; tensors with an offset are in the file `data`."""
    from onnx import TensorProto, helper

    def tensor(name: str, array: Array) -> Any:
        made = TensorProto(name=name, dims=array.shape)
        integers = array.dtype.kind == "i"
        made.data_type = TensorProto.INT64 if integers else TensorProto.FLOAT
        if name not in offsets:
            made.raw_data = _in_memory(array).tobytes()
            return made
        made.data_location = TensorProto.EXTERNAL
        facts = {"location": data, "offset": offsets[name], "length": 4 * array.size}
        for key, value in facts.items():
            made.external_data.add(key=key, value=str(value))
        return made

    def node(operation: Operation) -> Any:
        return helper.make_node(
            operation.type,
            operation.inputs,
            operation.outputs,
            operation.name,
            **dict[str, Any](operation.attributes),
        )

    def ports(given: Sequence[Port]) -> list[Any]:
        return [
            helper.make_tensor_value_info(port.name, TensorProto.FLOAT, port.dims)
            for port in given
        ]

    program = translation.program
    read = {name for op in program.operations for name in op.inputs}
    graph = helper.make_graph(
        [node(operation) for operation in program.operations],
        name,
        ports(translation.inputs),
        ports(translation.outputs),
        [tensor(n, array) for n, array in program.tensors.items() if n in read],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="caffe2flax",
        producer_version=version,
    )
    model.ir_version = IR_VERSION
    return model
