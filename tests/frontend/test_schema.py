"""The schema against its source, and architectures against the prototxts they had."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given
from hypothesis import strategies as st

from caffe2flax.errors import ConversionError
from caffe2flax.frontend import prototxt, schema
from caffe2flax.frontend.caffemodel import V1_TYPES
from caffe2flax.frontend.descriptors import PARAMS
from caffe2flax.frontend.grammars import grammar_path
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.schema import (
    Architecture,
    architecture,
    field_names,
    read_architecture,
)
from caffe2flax.frontend.wire import Wire
from caffe2flax.limits import limited
from tests.wireformat import chunk, doubles, floats, group, integer, layer, singly, tag

FIXTURES = Path(__file__).parents[2] / "fixtures" / "caffemodel"
CASES = sorted(path.stem for path in (FIXTURES / "architecture").glob("*.caffemodel"))

# The schema.

ENUM = re.compile(r"enum (\w+) \{\s*((?:\w+ = \d+;\s*)+)\}")
MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(
    r"(optional|required|repeated) +(\w+) +(\w+) += (\d+)(?: \[(.*)\])?;"
)
OPTION = re.compile(r'(default|packed) = ("[^"]*"|[^",]+)')

Rows = dict[str, dict[str, Any]]


def written() -> tuple[Rows, Rows, str]:
    """Messages and enums as the text has them, and what of the text is neither."""
    text = grammar_path("caffe.proto").read_text("utf-8")
    rest = re.sub(r"//.*", "", text)
    messages: Rows = {}
    enums: Rows = {}
    for name, body in MESSAGE.findall(rest):
        for enum, values in ENUM.findall(body):
            enums[f"{name}.{enum}"] = dict(re.findall(r"(\w+) = (\d+)", values))
        body = ENUM.sub("", body)
        messages[name] = {
            field: (label, type, number, dict(OPTION.findall(options)))
            for label, type, field, number, options in FIELD.findall(body)
        }
        assert not FIELD.sub("", body).strip()
    rest = MESSAGE.sub("", rest)
    for enum, values in ENUM.findall(rest):
        enums[enum] = dict(re.findall(r"(\w+) = (\d+)", values))
    return messages, enums, ENUM.sub("", rest)


def compiled() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(grammar_path("caffe.binpb").read_bytes())


def words(enum: EnumDescriptorProto) -> dict[str, str]:
    return {value.name: str(value.number) for value in enum.value}


def field_row(message: DescriptorProto, field: FieldDescriptorProto) -> Any:
    label = FieldDescriptorProto.Label.Name(field.label)[len("LABEL_") :].lower()
    type = FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
    if field.type_name:
        type = field.type_name.removeprefix(".caffe.").removeprefix(f"{message.name}.")
    options = {}
    if field.HasField("default_value"):
        options["default"] = field.default_value
        if type == "string":
            options["default"] = f'"{field.default_value}"'
        if type in ("float", "double"):
            options["default"] = float(field.default_value)
    if field.options.packed:
        options["packed"] = "true"
    return label, type, str(field.number), options


def test_the_compiled_schema_is_the_written_one() -> None:
    messages, enums, rest = written()
    assert re.sub(r"\s+", " ", rest).strip() == 'syntax = "proto2"; package caffe;'
    (file,) = compiled().file
    assert (file.name, file.package) == ("caffe.proto", "caffe")
    for fields in messages.values():
        for _, type, _, options in fields.values():
            if type in ("float", "double") and "default" in options:
                options["default"] = float(options["default"])
    assert messages == {
        message.name: {field.name: field_row(message, field) for field in message.field}
        for message in file.message_type
    }
    assert enums == {enum.name: words(enum) for enum in file.enum_type} | {
        f"{message.name}.{enum.name}": words(enum)
        for message in file.message_type
        for enum in message.enum_type
    }
    assert len(messages) >= 60
    assert len(enums) > 10


def test_protobuf_takes_the_schema() -> None:
    pool = DescriptorPool()
    pool.AddSerializedFile(compiled().file[0].SerializeToString())
    net = pool.FindMessageTypeByName("caffe.NetParameter")
    assert net.fields_by_name["layer"].number == 100


def test_nothing_is_registered_with_protobuf() -> None:
    from google.protobuf import descriptor_pool

    schema.schema()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")


NUMBERS = [
    ("BlobProto", "data", 5),
    ("BlobProto", "shape", 7),
    ("NetParameter", "layers", 2),
    ("NetParameter", "layer", 100),
    ("LayerParameter", "blobs", 7),
    ("LayerParameter", "convolution_param", 106),
    ("LayerParameter", "batch_norm_param", 139),
    ("LayerParameter", "clip_param", 148),
    ("V1LayerParameter", "blobs", 6),
    ("V0LayerParameter", "blobs", 50),
    ("ConvolutionParameter", "dilation", 18),
    ("PoolingParameter", "round_mode", 13),
    ("SolverParameter", "weights", 42),
]


@pytest.mark.parametrize(("message", "field", "number"), NUMBERS)
def test_number(message: str, field: str, number: int) -> None:
    assert schema.schema().messages[message][number].name == field


def test_field_names_stand_by_number() -> None:
    assert field_names("LRNParameter") == (
        "local_size",
        "alpha",
        "beta",
        "norm_region",
        "k",
        "engine",
    )
    with pytest.raises(KeyError):
        field_names("NoParameter")


def test_types_and_their_parameters_are_those_of_the_schema() -> None:
    fields = set(field_names("LayerParameter"))
    assert {name for own in PARAMS.values() for name in own} <= fields
    unused = fields - {name for own in PARAMS.values() for name in own}
    assert {name for name in unused if name.endswith("_param")} == {
        "transform_param",
        "loss_param",
    }
    enum = schema.schema().enums["V1LayerParameter.LayerType"]
    assert enum.keys() - {0} == V1_TYPES.keys()


# Architectures.


def plain(message: Message) -> dict[str, list[Any]]:
    """A message as lists of values, so that 0.1, 1e-1 and float32's 0.1 are equal."""
    fields: dict[str, list[Any]] = {}
    for field in message.fields:
        value: Any = field.value
        if isinstance(value, Message):
            value = plain(value)
        elif value.kind == "number":
            value = struct.unpack("<f", struct.pack("<f", number(value.text)))[0]
        else:
            value = (value.kind, value.text)
        fields.setdefault(field.name, []).append(value)
    return fields


def number(text: str) -> float:
    return int(text, 16) if text.lower().startswith("0x") else float(text)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_prototxt(name: str) -> None:
    """But for what Caffe itself puts in when it builds a net: Splits and the bottoms
    renamed for them, the phase, the multipliers of BatchNorm, weights of losses."""
    path = FIXTURES / "architecture" / name
    found = read_architecture(path.with_suffix(".caffemodel"))
    assert found.skipped == ()
    text = plain(prototxt.read(path.with_suffix(".prototxt")))
    net = plain(found.net)
    assert net["name"] == text["name"]
    of_text = {str((each["name"], each["type"])): each for each in text["layer"]}
    for each in net["layer"]:
        if each["type"] == [("string", "Split")]:
            continue
        expected = of_text[str((each["name"], each["type"]))]
        added = {"phase", "bottom"}
        if each["type"] == [("string", "BatchNorm")]:
            added.add("param")
        if "Loss" in each["type"][0][1]:
            added.add("loss_weight")
        keys = each.keys() | expected.keys()
        for key in keys - (added - expected.keys()) - {"phase", "bottom"}:
            assert each.get(key) == expected.get(key), key
        assert len(each.get("bottom", ())) == len(expected.get("bottom", ()))
        assert "blobs" not in each


def test_there_are_cases_for_most_types() -> None:
    types = set()
    for name in CASES:
        net = plain(architecture(FIXTURES / "architecture" / f"{name}.caffemodel"))
        types |= {each["type"][0][1] for each in net["layer"]}
    assert len(types & PARAMS.keys()) > 40


def test_v1_and_v0_stay_what_they_are() -> None:
    net = plain(architecture(FIXTURES / "v0_convnet.v1.caffemodel"))
    first = net["layers"][0]
    assert first["type"] == [("word", "CONVOLUTION")]
    assert first["name"] == [("string", "conv1")]
    assert first["convolution_param"][0]["num_output"] == [4.0]
    assert "blobs" not in first
    net = plain(architecture(FIXTURES / "v0_convnet.v0.caffemodel"))
    (inner,) = net["layers"][0]["layer"]
    assert inner["type"] == [("string", "conv")]
    assert inner["kernelsize"] == [3.0]
    assert "blobs" not in inner
    assert net["layers"][0]["bottom"] == [("string", "data")]


@pytest.fixture
def decoded(tmp_path: Path) -> Callable[[bytes], Architecture]:
    def decode(data: bytes) -> Architecture:
        path = tmp_path / "net.caffemodel"
        path.write_bytes(data)
        return read_architecture(path)

    return decode


def of_type(type: str, *fields: bytes) -> bytes:
    return chunk(100, chunk(1, "x"), chunk(2, type), *fields)


def param(net: Message, name: str) -> dict[str, list[Any]]:
    (only,) = plain(net)["layer"]
    (found,) = only[name]
    assert isinstance(found, dict)
    return found


POOLING = (121, "Pooling", "pooling_param")
ELTWISE = (110, "Eltwise", "eltwise_param")
RESHAPE = (133, "Reshape", "reshape_param")
SCALARS = {
    "word of an enum": (POOLING, integer(1, 1), {"pool": ["AVE"]}),
    "number without a word": (POOLING, integer(1, 7), {"pool": ["7"]}),
    "the last one counts": (
        POOLING,
        integer(2, 5) + integer(2, 3),
        {"kernel_size": ["3"]},
    ),
    "bool": (POOLING, integer(12, 1), {"global_pooling": ["true"]}),
    "bool, off": (POOLING, integer(12, 0), {"global_pooling": ["false"]}),
    "uint32": (POOLING, integer(2, 2**32 - 1), {"kernel_size": ["4294967295"]}),
    "negative": (RESHAPE, integer(3, -1), {"num_axes": ["-1"]}),
    "unpacked floats": (ELTWISE, singly(2, (1, -0.1)), {"coeff": ["1.0", "-0.1"]}),
    "packed floats": (ELTWISE, chunk(2, floats(1e-5, 3)), {"coeff": ["1e-05", "3.0"]}),
    "no numbers": (
        ELTWISE,
        chunk(2, floats(float("inf"), float("-inf"), float("nan"))),
        {"coeff": ["inf", "-inf", "nan"]},
    ),
    "a fork's number": (POOLING, integer(40, 1), {"40": ["1"]}),
    "a fork's type": (POOLING, chunk(2, b"abc"), {"2": ["3 bytes"]}),
    "a fork's group": (POOLING, group(2), {"2": ["0 bytes"]}),
    "a fork's double": (POOLING, tag(14, 1) + doubles(1), {"14": ["8 bytes"]}),
}


@pytest.mark.parametrize("name", SCALARS)
def test_scalar(name: str, decoded: Callable[[bytes], Architecture]) -> None:
    (at, type, field), message, expected = SCALARS[name]
    (each,) = decoded(of_type(type, chunk(at, message))).net.all("layer")
    assert isinstance(each.value, Message)
    (own,) = each.value.all(field)
    assert isinstance(own.value, Message)
    texts: dict[str, list[str]] = {}
    for inner in own.value.fields:
        assert not isinstance(inner.value, Message)
        texts.setdefault(inner.name, []).append(inner.value.text)
    assert texts == expected


def test_a_message_given_twice_is_merged(
    decoded: Callable[[bytes], Architecture],
) -> None:
    filler = [chunk(7, chunk(1, "xavier")), chunk(7, chunk(1, "msra"), integer(8, 2))]
    first = chunk(106, integer(1, 8), integer(4, 3), filler[0])
    second = chunk(106, integer(1, 9), integer(4, 5), filler[1])
    found = param(
        decoded(of_type("Convolution", first, second)).net, "convolution_param"
    )
    assert found == {
        "num_output": [9.0],
        "kernel_size": [3.0, 5.0],
        "weight_filler": [
            {"type": [("string", "msra")], "variance_norm": [("word", "AVERAGE")]}
        ],
    }


def test_what_a_type_does_not_read_is_listed(
    decoded: Callable[[bytes], Architecture],
) -> None:
    """Numbers that forks took: bytes that would decode as another message, or not."""
    data = of_type("ReLU", chunk(147, integer(1, 1)), chunk(123, floats()))
    data += of_type("Permute", chunk(202, integer(1, 0)), integer(145, 1))
    data += chunk(100, integer(145, 1)) + integer(9, 1)
    found = decoded(data)
    assert found.skipped == (
        "NetParameter field 9 (a fork's own), in the net",
        "LayerParameter field 147 (swish_param), in ReLU",
        "LayerParameter field 202 (a fork's own), in Permute",
        "LayerParameter field 145 (a fork's own), in Permute, layers without a type",
    )
    names = [set(each) for each in plain(found.net)["layer"]]
    assert names == [{"name", "type", "relu_param"}, {"name", "type"}, set()]


def test_what_v1_does_not_read_is_listed(
    decoded: Callable[[bytes], Architecture],
) -> None:
    good = chunk(2, chunk(4, "p"), integer(5, 17), chunk(19, integer(2, 3)))
    fork = chunk(2, chunk(4, "r"), integer(5, 41), chunk(19, b"\xff"))
    found = decoded(good + fork)
    assert found.skipped == ("V1LayerParameter field 19 (pooling_param), in 41",)
    first, second = plain(found.net)["layers"]
    assert first["pooling_param"] == [{"kernel_size": [3.0]}]
    assert second["type"] == [41.0]


DEFECTS = {
    "both kinds of layers": (layer() + chunk(2, chunk(4, "x")), "Caffe refuses"),
    "no layers": (chunk(1, "name"), "no layers at byte 0"),
    "a parameter cut off": (of_type("ReLU", chunk(123, b"\x0d\x00")), "ends inside"),
    "half a float": (
        of_type("Eltwise", chunk(110, chunk(2, b"abc"))),
        "coeff: no whole",
    ),
    "a text": (b"layer { }\n", "a text file"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect(name: str, decoded: Callable[[bytes], Architecture]) -> None:
    data, expected = DEFECTS[name]
    with pytest.raises(ConversionError, match="at byte ") as caught:
        decoded(data)
    assert expected in str(caught.value)


def test_an_hdf5_snapshot_holds_no_architecture() -> None:
    with pytest.raises(ConversionError, match="holds no architecture"):
        architecture(FIXTURES / "v0_convnet.caffemodel.h5")


def test_counts_have_a_limit(
    decoded: Callable[[bytes], Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (
        integer(9, 1) * 100,
        of_type("ReLU", integer(9, 1) * 100),
        of_type("Eltwise", chunk(110, chunk(2, floats(*range(100))))),
        of_type("Eltwise", chunk(110, singly(2, tuple(range(100))))),
        of_type("Convolution", chunk(106, chunk(3, b"\x01" * 100))),
    ):
        with (
            limited(fields=99),
            pytest.raises(ConversionError, match="more fields and values, the limit"),
        ):
            decoded(data + layer())
    fields = [integer(number, 1) for number in range(1000, 1030)]
    monkeypatch.setattr(schema, "MAX_SKIPPED", 10)
    assert len(decoded(of_type("ReLU", *fields)).skipped) == 10


@given(
    name=st.sampled_from(["v0_convnet.caffemodel", "v0_convnet.v0.caffemodel"]),
    at=st.integers(0),
    extra=st.binary(max_size=8),
    cut=st.integers(0, 9),
)
def test_changed_bytes_never_crash(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, extra: bytes, cut: int
) -> None:
    data = bytearray((FIXTURES / name).read_bytes())
    at %= len(data)
    data[at : at + cut] = extra
    path = tmp_path_factory.getbasetemp() / "changed.architecture"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        message = str(architecture(path).span)
    except ConversionError as error:
        message = str(error)
    assert str(path) in message


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Cut at any byte, a file is refused, or it ended between two fields."""
    data = (FIXTURES / "architecture" / f"{CASES[0]}.caffemodel").read_bytes()
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(data)
    ends = {found.offset for found in Wire("", data).fields(0, len(data))}
    for size in range(len(data) - 1, 0, -1):
        os.truncate(path, size)
        if size in sorted(ends)[2:]:
            assert architecture(path).has("layer")
            continue
        with pytest.raises(ConversionError, match="at byte "):
            architecture(path)
