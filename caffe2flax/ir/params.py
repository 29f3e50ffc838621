"""Reading a layer's parameters so that no field goes unread.

A field that a converter does not read makes its result wrong without a message.
`Params` records which fields were read; `close` makes each of the others an error at
its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from caffe2flax.errors import (
    ConversionError,
    Kind,
    Problem,
    Span,
    closest,
    unknown,
)
from caffe2flax.frontend.descriptors import FieldSpec, schema
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.scalar import (
    INTEGERS,
    T,
    converted,
    is_integer,
    shown,
    to_integer,
)
from caffe2flax.ir.dialects import WITHOUT_EFFECT, listed
from caffe2flax.ir.transform import Transform

MESSAGES = {"the net": "NetParameter", "the solver": "SolverParameter"}
"""The names of what stands at the top of a file -> its message in Caffe's schema."""


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
    _wrong: set[str] = field(default_factory=set, init=False)
    """Fields whose value is a problem already."""
    _missing: dict[str, Problem] = field(default_factory=dict, init=False)
    _suggested: list[str] = field(default_factory=list, init=False)

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
        found = self._single(name)
        if found is None:
            self.missing(name)
            return type_()
        return self._convert(found, type_())

    def all(self, name: str, type_: type[T]) -> tuple[T, ...]:
        """Every value of a repeated field."""
        return tuple(self._convert(f, type_()) for f in self._fields(name))

    def choice(
        self,
        name: str,
        *words: str,
        default: str | None = None,
        older: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """An enum field, by name or number. `words` are the names in the order of their
        numbers, "" for a number without one; the first is the default unless `default`
        is given. `older` names of some of them stand for the same."""
        entry = self._single(name)
        if entry is None:
            return words[0] if default is None else default
        value = entry.value
        known = [*filter(None, words), *older]
        if isinstance(value, Scalar) and value.kind != "string":
            if value.text in known:
                return older.get(value.text, value.text)
            if is_integer(value):
                number = to_integer(value.text)
                if 0 <= number < len(words) and words[number]:
                    return words[number]
        hint = closest(shown(value), known, self.problems)
        if isinstance(value, Scalar) and value.kind == "string" and value.text in known:
            hint = "; leave out the quotes"
        text = f"{name} is one of {', '.join(known)}, not {shown(value)}{hint}"
        self.refuse(entry, text)
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
        for found in self.message.fields if self.message else ():
            if found.name in names and isinstance(found.value, Scalar):
                self._check_ignored(found, found.value)

    def _check_ignored(self, found: Field, value: Scalar) -> None:
        """Caffe's parser refuses a number beyond its type wherever it stands."""
        if not is_integer(value) or value.kind == "string" or not self._beyond(found):
            return
        spec = self._specs().get(found.name)
        if spec is not None and spec.type in INTEGERS:
            self._convert(found, 0)

    def span(self, name: str | None = None) -> Span | None:
        """The position of the field, or of the message where it is not given."""
        if self.message is None:
            return self.parent.span() if self.parent else None
        entry = next(self.message.all(name), None) if name else None
        return entry.span if entry else self.message.span

    def error(self, name: str | None, message: str) -> None:
        """Records a problem at the field `name`, or at the message; not where it may
        follow from a value, or a number of blobs, that is refused already."""
        self._report(name, message, None)

    def _report(self, name: str | None, message: str, kind: Kind | None) -> None:
        if name in self._wrong or (name is None and self._wrong):
            return
        if name is None and self.parent is not None and self.parent._missing:
            return
        self.problems.append(Problem(message, self.span(name), kind))

    def unsupported(self, name: str | None, message: str) -> None:
        """As `error`, for what a fork computes and is not converted."""
        self._report(name, message, "unsupported")

    def ambiguous(self, name: str | None, message: str) -> None:
        """As `error`, for what the file leaves open."""
        self._report(name, message, "ambiguous")

    def refuse(self, found: Field, message: str) -> None:
        """Records what is wrong with a value; it is the only problem of its field."""
        self._wrong.add(found.name)
        self.problems.append(Problem(message, found.span))

    def missing(self, name: str, message: str = "") -> None:
        """Records that the field is not given; a misspelt one is reported instead."""
        if name in self._missing:
            return
        problem = Problem(message or f"{self.name} needs {name}", self.span())
        self._missing[name] = problem
        self.problems.append(problem)

    def suggest(self, name: str) -> None:
        """Marks a field that is rather meant by a misspelt one than others are, where
        it is not given."""
        if not self.has(name):
            self._suggested.append(name)

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
        self.ambiguous(
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
                hint = self._hint(name)
                text = f"unknown field {name} in {self.name}{hint}"
                # Caffe takes a field of its own, whether or not it is known here.
                kind = "unsupported" if name in self._specs() else unknown(name, hint)
                self.problems.append(Problem(text, span, kind))
        for child in self._children:
            if child.message is not None:
                child._report_unread()

    def _hint(self, name: str) -> str:
        """What an unknown field is taken for: rather one that is missing, which is then
        no problem of its own."""
        for child in self._children:
            if child.message is None and closest(name, [child.name], self.problems):
                for lacking in list(child._missing):
                    child._excuse(lacking)
        for lacking in self._missing:
            if hint := closest(name, [lacking], self.problems):
                self._excuse(lacking)
                return hint
        for expected in self._suggested:
            if hint := closest(name, [expected], self.problems):
                return hint
        return closest(name, self._known, self.problems)

    def _excuse(self, name: str) -> None:
        self.problems.remove(self._missing.pop(name))

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

    def _convert(self, found: Field, default: T) -> T:
        value, type_ = found.value, type(default)
        if isinstance(value, Scalar):
            known = converted(value, type_)
            if known is not None and not (type_ is int and self._beyond(found)):
                return known
        self.refuse(found, f"{found.name} is {self._wanted(found, type_)}")
        return default

    def _wanted(self, found: Field, type_: type[T]) -> str:
        """What belongs into the field, and not what stands there."""
        value = found.value
        wanted = {bool: "true or false", int: "an integer", float: "a number"}
        text = f"{wanted.get(type_, 'a string')}, not {shown(value)}"
        if not isinstance(value, Scalar):
            return text
        if type_ is str:
            return f'{text}; write "{value.text}"' if value.kind == "word" else text
        if value.kind == "string":
            plain = converted(replace(value, kind="number"), type_) is not None
            return f"{text}; leave out the quotes" if plain else text
        if type_ is int and is_integer(value):
            low, high = self._range(found.name)
            return f"an integer from {low} to {high}, not {shown(value)}"
        return text

    def _beyond(self, found: Field) -> bool:
        """Whether an integer is beyond the type of the field."""
        assert isinstance(found.value, Scalar)
        number = to_integer(found.value.text)
        if 0 <= number <= INTEGERS["int32"][1]:
            return False  # it fits every type: there is no need to look this one up
        low, high = self._range(found.name)
        return not low <= number <= high

    def _range(self, name: str) -> tuple[int, int]:
        spec = self._specs().get(name)
        return INTEGERS.get(spec.type if spec else "", INTEGERS["int32"])

    def _specs(self) -> Mapping[str, FieldSpec]:
        """The fields of the message by Caffe's schema; none where it lacks it."""
        if self.parent is None:
            message = MESSAGES.get(self.name, "")
        else:
            spec = self.parent._specs().get(self.name)
            message = spec.refers if spec else ""
        fields = schema().messages.get(message, {})
        return {spec.name: spec for spec in fields.values()}
