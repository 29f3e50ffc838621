"""Reading a layer's parameters so that no field goes unread.

A field that a converter does not read makes its result wrong without a message.
`Params` records which fields were read; `close` makes each of the others an error at
its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from caffe2flax.errors import ConversionError, Problem, Span, closest
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.ir.dialects import WITHOUT_EFFECT, listed
from caffe2flax.ir.transform import Transform

T = TypeVar("T", bool, int, float, str)

INT32 = 2**31
MAX_DIGITS = 24
"""The longest integer that is read, in characters; 64 bits in octal have 22."""

_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")
_BOOLS = {"true": True, "True": True, "t": True, "1": True}
_BOOLS |= {"false": False, "False": False, "f": False, "0": False}
_FLOATS = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}
_FLOATS |= {f"-{word}": -value for word, value in _FLOATS.items()}


@dataclass(slots=True)
class Params:
    """The fields of one message, read by name; problems are collected, not raised,
    until `close`.

    `bottoms` and `tops` count the layer's blobs and `phase` is the net's: some
    parameters mean something else, or nothing, depending on them.
    """

    name: str
    message: Message | None
    bottoms: int = 1
    tops: int = 1
    phase: str = "TEST"
    in_place: bool = False
    """Whether a top of the layer is one of its bottoms."""
    transform: Transform | None = None
    """The layer's `transform_param`."""
    dialects: Mapping[str, str] = field(default_factory=dict)
    """The meaning that the caller chose for a type with several meanings."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes that the caller gives, by blob."""
    types: frozenset[str] = frozenset()
    """The layer types of the net."""
    declared: frozenset[str] = frozenset()
    """The names of the fields of the net itself."""
    bottom_types: tuple[str, ...] = ()
    """The types of the layers that compute the bottoms; "" for an input."""
    parent: Params | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _known: dict[str, None] = field(default_factory=dict, init=False)
    _children: list[Params] = field(default_factory=list, init=False)

    def has(self, name: str) -> bool:
        """Whether the field is given; it still has to be read."""
        self._known[name] = None
        return self.message is not None and self.message.has(name)

    def get(self, name: str, default: T) -> T:
        """The field as the type of `default`, or `default`."""
        entry = self._single(name)
        return default if entry is None else self._convert(entry, default)

    def optional(self, name: str, type_: type[T]) -> T | None:
        """The field, or None where it is not given."""
        entry = self._single(name)
        return None if entry is None else self._convert(entry, type_())

    def require(self, name: str, type_: type[T]) -> T:
        """The field; its absence is a problem."""
        entry = self._single(name)
        if entry is None:
            self.error(None, f"{self.name} needs {name}")
            return type_()
        return self._convert(entry, type_())

    def all(self, name: str, type_: type[T]) -> tuple[T, ...]:
        """Every value of a repeated field."""
        return tuple(self._convert(f, type_()) for f in self._fields(name))

    def choice(self, name: str, *words: str, default: str | None = None) -> str:
        """An enum field, by name or number. `words` are the names in the order of their
        numbers, "" for a number without one; the first is the default unless `default`
        is given."""
        entry = self._single(name)
        if entry is None:
            return words[0] if default is None else default
        value = entry.value
        known = [word for word in words if word]
        if isinstance(value, Scalar) and value.kind != "string":
            if value.text in known:
                return value.text
            if _is_integer(value):
                number = _integer(value.text)
                if 0 <= number < len(words) and words[number]:
                    return words[number]
        hint = closest(_text(value), known, self.problems)
        self.error(
            name, f"{name} is one of {', '.join(known)}, not {_text(value)}{hint}"
        )
        return words[0] if default is None else default

    def sub(self, name: str) -> Params:
        """The nested message `name`; empty where it is not given."""
        entry = self._single(name)
        return self._child(name, entry)

    def subs(self, name: str) -> tuple[Params, ...]:
        """Every nested message of a repeated field."""
        return tuple(self._child(name, f) for f in self._fields(name))

    def ignore(self, *names: str) -> None:
        """Marks fields as read that do not change what the layer computes."""
        self._known.update(dict.fromkeys(names))

    def span(self, name: str | None = None) -> Span | None:
        """The position of the field, or of the message where it is not given."""
        if self.message is None:
            return self.parent.span() if self.parent else None
        entry = next(self.message.all(name), None) if name else None
        return entry.span if entry else self.message.span

    def error(self, name: str | None, message: str) -> None:
        """Records a problem at the field `name`, or at the message."""
        self.problems.append(Problem(message, self.span(name)))

    def note(self, text: str) -> None:
        """Records something that the user should know."""
        self.notes.append(text)

    def dialect(self, type_: str) -> str:
        """The meaning that the caller chose for the layer type; "" where none was."""
        return self.dialects.get(type_, "")

    def decided(self, type_: str, meaning: str, why: str) -> str:
        """Adds the note that the file itself decides the `meaning` of the type, and
        why."""
        text = f"{type_} taken as {meaning!r}: {why}; --dialect {type_}=... overrides"
        if text not in self.notes:
            self.note(text)
        return meaning

    def undecided(self, type_: str) -> None:
        """Records the problem that the file does not decide the meaning of the type."""
        self.error(
            None,
            f"{type_} has several meanings, and nothing here tells which: "
            f"{listed(type_)}. Choose one with --dialect {type_}=MEANING",
        )

    def close(self) -> None:
        """Raises ConversionError with every problem, unread fields among them."""
        self._report_unread()
        if self.problems:
            raise ConversionError(self.problems)

    def _report_unread(self) -> None:
        fields = self.message.fields if self.message else ()
        first = {f.name: f.span for f in reversed(fields)}
        for name, span in reversed(first.items()):
            if name not in self._known and not self._has_no_effect(name):
                hint = closest(name, self._known, self.problems)
                text = f"unknown field {name} in {self.name}{hint}"
                self.problems.append(Problem(text, span))
        for child in self._children:
            if child.message is not None:
                child._report_unread()

    def _has_no_effect(self, name: str) -> bool:
        """Whether the field is one of a fork that changes no value; if so, adds a note,
        once."""
        about = WITHOUT_EFFECT.get(self.name, {}).get(name)
        if about is None:
            return False
        text = f"{name} in {self.name} is about {about}: passed over"
        if text not in self.notes:
            self.note(text)
        return True

    def _fields(self, name: str) -> Iterator[Field]:
        self._known[name] = None
        return self.message.all(name) if self.message else iter(())

    def _single(self, name: str) -> Field | None:
        fields = list(self._fields(name))
        for again in fields[1:]:
            text = f"{name} is given twice in {self.name}"
            self.problems.append(Problem(text, again.span))
        return fields[0] if fields else None

    def _child(self, name: str, entry: Field | None) -> Params:
        message = entry.value if entry else None
        if isinstance(message, Scalar):
            self.error(name, f"{name} is a message: write {name} {{ ... }}")
            message = None
        child = replace(self, name=name, message=message, parent=self)
        self._children.append(child)
        return child

    def _convert(self, entry: Field, default: T) -> T:
        value = entry.value
        if isinstance(value, Scalar):
            converted = _convert(value, type(default))
            if converted is not None:
                return converted
        wanted = {bool: "true or false", int: "an integer", float: "a number"}
        text = f"{entry.name} is {wanted.get(type(default), 'a string')}"
        self.problems.append(Problem(f"{text}, not {_text(value)}", entry.span))
        return default


def _convert(value: Scalar, type_: type[T]) -> T | None:
    """`value` as `type_` by the rules of protobuf's text format; None where they do not
    allow it."""
    if type_ is str:
        return type_(value.text) if value.kind == "string" else None
    if value.kind == "string":
        return None
    if type_ is int:
        if not _is_integer(value):
            return None
        number = _integer(value.text)
        return type_(number) if -INT32 <= number < 2 * INT32 else None
    if type_ is bool:
        known = _BOOLS.get(value.text)
        return None if known is None else type_(known)
    if value.text.lower() in _FLOATS:
        return type_(_FLOATS[value.text.lower()])
    if value.kind != "number":
        return None
    try:
        return type_(float(value.text.rstrip("fF")))
    except ValueError:
        return type_(_integer(value.text)) if _is_integer(value) else None


def _is_integer(value: Scalar) -> bool:
    """Whether `value` is an integer short enough to fit: Python raises ValueError for
    very long ones."""
    return len(value.text) <= MAX_DIGITS and bool(_INTEGER.fullmatch(value.text))


def _integer(text: str) -> int:
    """Decimal, hexadecimal, or octal with C's leading zero."""
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if digits[:2] in ("0x", "0X"):
        return sign * int(digits, 16)
    if len(digits) > 1 and digits[0] == "0" and not set(digits) & {"8", "9"}:
        return sign * int(digits, 8)
    return sign * int(digits)


def _text(value: Scalar | Message) -> str:
    if isinstance(value, Message):
        return "a message"
    shown = value.text if len(value.text) <= 40 else value.text[:37] + "..."
    return repr(shown) if value.kind == "string" else shown
