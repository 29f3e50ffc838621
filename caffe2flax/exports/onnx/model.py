"""Program -> an ONNX file, with the weights in it or beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""The numbers of these fields in onnx.proto."""


def targets(
    translation: Translation, name: str, version: str, path: Path
) -> dict[Path, Write]:
    """What writes each file: the model, and beside it its tensors where they are too
    large for one file. Raises ConversionError where the package onnx is not
    installed."""
    with optional("the export to ONNX", "onnx", "onnx"):
        import onnx  # noqa: F401
    read = {name for op in translation.program.operations for name in op.inputs}
    every = translation.program.tensors
    tensors = {name: tensor for name, tensor in every.items() if name in read}
    beside: dict[str, Array] = {}
    if sum(map(_bytes, tensors.values())) > INSIDE:
        beside = {n: t for n, t in tensors.items() if _bytes(t) >= SMALL}
    data = path.with_name(f"{path.name}.data")
    graph = _graph(translation, name, data.name, _offsets(beside))
    inside = {name: t for name, t in tensors.items() if name not in beside}
    made: dict[Path, Write] = {
        path: lambda stream: _write_model(stream, _model(version), graph, inside)
    }
    if beside:
        made[data] = lambda stream: _write_beside(stream, beside)
    return made


def with_outputs(names: Sequence[str]) -> bytes:
    """What makes values of a model its outputs, too, where it follows on the file."""
    from onnx import GraphProto, ModelProto, TensorProto, helper

    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    ]
    made: bytes = ModelProto(graph=GraphProto(output=outputs)).SerializeToString()
    return made


def _bytes(tensor: Array) -> int:
    return tensor.size * (8 if tensor.dtype.kind == "i" else 4)


def _in_memory(tensor: Array) -> Array:
    """The tensor out of its file; all numbers but integers as float32."""
    kind = "<i8" if tensor.dtype.kind == "i" else "<f4"
    with np.errstate(over="ignore"):
        return np.asarray(loaded(tensor), kind, order="C")


def _offsets(tensors: Mapping[str, Array]) -> dict[str, int]:
    """Where each tensor begins in the file beside the model."""
    offsets, end = {}, 0
    for name, tensor in tensors.items():
        offsets[name] = end
        end = -(-(end + _bytes(tensor)) // ALIGNED) * ALIGNED
    return offsets


def _write_beside(stream: IO[bytes], tensors: Mapping[str, Array]) -> None:
    for name, offset in _offsets(tensors).items():
        stream.seek(offset)
        stream.write(_in_memory(tensors[name]).data)


def _write_model(
    stream: IO[bytes], model: Any, graph: Any, tensors: Mapping[str, Array]
) -> None:
    """Writes the model with one tensor after the other, of which memory holds one."""
    heads = {name: _tensor(name, t).SerializeToString() for name, t in tensors.items()}
    parts: list[tuple[bytes, str]] = []
    for name, tensor in tensors.items():
        data = _field(RAW_DATA, _bytes(tensor))
        size = len(heads[name]) + len(data) + _bytes(tensor)
        parts.append((_field(INITIALIZER, size) + heads[name] + data, name))
    given = graph.SerializeToString()
    size = len(given) + sum(len(head) + _bytes(tensors[n]) for head, n in parts)
    stream.write(model.SerializeToString() + _field(GRAPH, size) + given)
    for head, name in parts:
        stream.write(head)
        stream.write(_in_memory(tensors[name]).data)


def _field(number: int, size: int) -> bytes:
    """What a field of `size` bytes begins with in a protobuf message."""
    return bytes([*_varint(number << 3 | 2), *_varint(size)])


def _varint(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _model(version: str) -> Any:
    """A model but for its graph."""
    from onnx import ModelProto, helper

    return ModelProto(
        ir_version=IR_VERSION,
        opset_import=[helper.make_opsetid("", OPSET)],
        producer_name="caffe2flax",
        producer_version=version,
    )


def _tensor(name: str, array: Array) -> Any:
    """A tensor but for its numbers."""
    from onnx import TensorProto

    integers = array.dtype.kind == "i"
    kind = TensorProto.INT64 if integers else TensorProto.FLOAT
    return TensorProto(name=name, dims=array.shape, data_type=kind)


def _graph(
    translation: Translation, name: str, data: str, offsets: Mapping[str, int]
) -> Any:
    """The graph with the tensors that are in the file `data` only."""
    from onnx import TensorProto, helper

    def outside(name: str, offset: int) -> Any:
        array = translation.program.tensors[name]
        made = _tensor(name, array)
        made.data_location = TensorProto.EXTERNAL
        facts = {"location": data, "offset": offset, "length": _bytes(array)}
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

    return helper.make_graph(
        [node(operation) for operation in translation.program.operations],
        name,
        ports(translation.inputs),
        ports(translation.outputs),
        [outside(name, offset) for name, offset in offsets.items()],
    )
