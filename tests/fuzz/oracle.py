"""A weights file as protobuf's own reader reads it, to compare ours with."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from caffe2flax.frontend.caffemodel import V1_TYPES, WeightFile
from caffe2flax.frontend.grammars import grammar_path

Layer = tuple[str, str, list[Any]]

FORKS = {5, 8, 10, 12}
"""Fields of a blob by which a fork is known: of C3D in other wire types, of NVCaffe."""


def check_arrays(file: WeightFile, data: bytes) -> None:
    """Arrays are read-only, readable, and no larger than what is stored."""
    for layer in file.layers:
        for blob in layer.blobs:
            assert not blob.flags.writeable
            assert blob.nbytes <= len(data)
            np.isnan(blob).any()


def check_against_protobuf(file: WeightFile, data: bytes) -> None:
    """The same layers with the same numbers as protobuf and Caffe's schema give."""
    from google.protobuf.message import DecodeError

    net = _net()()
    try:
        net.ParseFromString(data)
    except DecodeError:
        return  # in a message that we step over
    theirs = [*map(_v2, net.layer), *map(_v1, net.layers)]
    kept = [each for each in theirs if each[1].lower() != "split" or each[2]]
    assert len(kept) == len(file.layers)
    for ours, (name, type_, blobs) in zip(file.layers, kept, strict=True):
        # An enum's number that Caffe lacks is an unknown field to protobuf.
        known = "" if ours.type.isdigit() and not type_ else ours.type
        assert (ours.name, known) == (name, type_)
        assert len(ours.blobs) == len(blobs)
        for array, blob in zip(ours.blobs, blobs, strict=True):
            _check_blob(array, blob)


def _check_blob(array: Any, blob: Any) -> None:
    from google.protobuf.unknown_fields import UnknownFieldSet

    if {each.field_number for each in UnknownFieldSet(blob)} & FORKS:
        return
    legacy = [blob.HasField(n) for n in ("num", "channels", "height", "width")]
    if any(legacy):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = tuple(blob.shape.dim)
    values = blob.double_data or blob.data
    assert array.shape == shape
    np.testing.assert_array_equal(array.ravel(), np.asarray(values, array.dtype))


def _v2(layer: Any) -> Layer:
    return _text(layer.name), _text(layer.type), list(layer.blobs)


def _v1(layer: Any) -> Layer:
    inner = layer.layer
    name = _text(inner.name) or _text(layer.name)
    type_ = _text(inner.type) or V1_TYPES.get(layer.type, str(layer.type or ""))
    return name, type_, list(inner.blobs or layer.blobs)


def _text(found: str | bytes) -> str:
    """protobuf gives bytes where they are no UTF-8."""
    return (
        found if isinstance(found, str) else found.decode("utf-8", "backslashreplace")
    )


@cache
def _net() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(
        grammar_path("caffe.binpb").read_bytes()
    )
    for file in files.file:
        pool.Add(file)
    package = files.file[0].package
    found = pool.FindMessageTypeByName(f"{package}.NetParameter")
    return message_factory.GetMessageClass(found)
