"""A value of a prototxt as a number or a word, by the rules of protobuf's text
format."""

from __future__ import annotations

import re
from typing import TypeVar

from caffe2flax.frontend.message import Message, Scalar

T = TypeVar("T", bool, int, float, str)

INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
"""The least and the largest number of each type; int32 is that of a field which Caffe's
schema lacks: layers of forks keep such numbers in an int."""

MAX_DIGITS = 24
"""Characters of an integer that are looked at; one of 64 bits in octal has 22."""

_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")
_BOOLS = {"true": True, "True": True, "t": True, "1": True}
_BOOLS |= {"false": False, "False": False, "f": False, "0": False}
_FLOATS = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}
_FLOATS |= {f"-{word}": -value for word, value in _FLOATS.items()}


def converted(value: Scalar, type_: type[T]) -> T | None:
    """`value` as `type_` by the rules of protobuf's text format; None where they refuse
    it, whatever the size of an integer."""
    if type_ is str:
        return type_(value.text) if value.kind == "string" else None
    if value.kind == "string":
        return None
    if type_ is bool:
        known = _BOOLS.get(value.text)
        return None if known is None else type_(known)
    if is_integer(value):
        return type_(to_integer(value.text))
    if type_ is int:
        return None
    if value.text.lower() in _FLOATS:
        return type_(_FLOATS[value.text.lower()])
    try:
        return type_(float(value.text.rstrip("fF"))) if value.kind == "number" else None
    except ValueError:
        return None


def is_integer(value: Scalar) -> bool:
    """Whether it is one that may fit: Python refuses to read endless ones."""
    return len(value.text) <= MAX_DIGITS and bool(_INTEGER.fullmatch(value.text))


def to_integer(text: str) -> int:
    """Decimal, hexadecimal, or octal with C's leading zero."""
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if digits[:2] in ("0x", "0X"):
        return sign * int(digits, 16)
    if len(digits) > 1 and digits[0] == "0" and not set(digits) & {"8", "9"}:
        return sign * int(digits, 8)
    return sign * int(digits)


def shown(value: Scalar | Message) -> str:
    """The value in a message to the user."""
    if isinstance(value, Message):
        return "a message"
    text = value.text if len(value.text) <= 40 else value.text[:37] + "..."
    return repr(text) if value.kind == "string" else text
