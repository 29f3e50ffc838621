"""The types of fields by Caffe's schema: what a number may be, and what to say of a
value that is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from caffe2flax.frontend.descriptors import FieldSpec, schema
from caffe2flax.frontend.message import Field, Scalar
from caffe2flax.frontend.scalar import (
    INTEGERS,
    converted,
    is_integer,
    shown,
    to_integer,
)

MESSAGES = {"the net": "NetParameter", "the solver": "SolverParameter"}
"""The names of what stands at the top of a file -> its message in Caffe's schema."""
Path = Sequence[str]
"""The names of the messages around a field, the outermost first."""


def known_fields(path: Path) -> Mapping[str, FieldSpec]:
    """The fields of the message by Caffe's schema; none where it lacks it."""
    messages = schema().messages
    message = MESSAGES.get(path[0], "LayerParameter" if path[0] == "layer" else "")
    for name in path[1:]:
        fields = messages.get(message, {}).values()
        message = next((f.refers for f in fields if f.name == name), "")
    return {spec.name: spec for spec in messages.get(message, {}).values()}


def is_beyond(found: Field, path: Path) -> bool:
    """Whether an integer is beyond the type of the field."""
    assert isinstance(found.value, Scalar)
    number = to_integer(found.value.text)
    if 0 <= number <= INTEGERS["int32"][1]:
        return False  # it fits every type: there is no need to look this one up
    low, high = integer_range(found.name, path) or INTEGERS["int32"]
    return not low <= number <= high


def integer_range(name: str, path: Path) -> tuple[int, int] | None:
    """The least and the largest number of an integer field; None for any other."""
    spec = known_fields(path).get(name)
    return INTEGERS.get(spec.type) if spec else None


def wanted(found: Field, type_: type, path: Path) -> str:
    """What belongs into the field, and not what stands there."""
    value = found.value
    kinds = {bool: "true or false", int: "an integer", float: "a number"}
    text = f"{kinds.get(type_, 'a string')}, not {shown(value)}"
    if not isinstance(value, Scalar):
        return text
    if type_ is str:
        return f'{text}; write "{value.text}"' if value.kind == "word" else text
    if value.kind == "string":
        plain = converted(replace(value, kind="number"), type_) is not None
        return f"{text}; leave out the quotes" if plain else text
    if type_ is int and is_integer(value):
        low, high = integer_range(found.name, path) or INTEGERS["int32"]
        return f"an integer from {low} to {high}, not {shown(value)}"
    return text
