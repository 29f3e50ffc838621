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
)
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.scalar import (
    T,
    converted,
    is_integer,
    shown,
    to_integer,
)
from caffe2flax.ir.dialects import choice_note, undecided
from caffe2flax.ir.field_types import integer_range, is_beyond, wanted
from caffe2flax.ir.transform import Transform
from caffe2flax.ir.unread import report_unread


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
    weights: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    """Shapes of the blobs in the weight files, by layer."""
    types: frozenset[str] = frozenset()
    """The layer types of the net."""
    declared: frozenset[str] = frozenset()
    """The names of the fields of the net itself."""
    bottom_types: tuple[str, ...] = ()
    """The types of the layers that compute the bottoms; "" for an input."""
    about: str = ""
    """What the fields are about, where that cannot reach the module, such as how data
    is read: unknown ones are passed over, with a note."""
    parent: Params | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: dict[str, None] = field(default_factory=dict, init=False)
    """The fields that were read."""
    children: list[Params] = field(default_factory=list, init=False)
    _wrong: set[str] = field(default_factory=set, init=False)
    """Fields whose value is a problem already."""
    lacking: dict[str, Problem] = field(default_factory=dict, init=False)
    suggested: list[str] = field(default_factory=list, init=False)

    def has(self, name: str) -> bool:
        """Whether the field is given; it still has to be read."""
        self.known[name] = None
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
        self.known.update(dict.fromkeys(names))
        for found in self.message.fields if self.message else ():
            if found.name in names and isinstance(found.value, Scalar):
                self._check_ignored(found, found.value)

    def _check_ignored(self, found: Field, value: Scalar) -> None:
        """Caffe's parser refuses a number beyond its type wherever it stands."""
        if not is_integer(value) or value.kind == "string":
            return
        if is_beyond(found, self.path) and integer_range(found.name, self.path):
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
        if name is None and self.parent is not None and self.parent.lacking:
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
        if name in self.lacking:
            return
        problem = Problem(message or f"{self.name} needs {name}", self.span())
        self.lacking[name] = problem
        self.problems.append(problem)

    def suggest(self, name: str) -> None:
        """Marks a field that is rather meant by a misspelt one than others are, where
        it is not given."""
        if not self.has(name):
            self.suggested.append(name)

    def note(self, text: str) -> None:
        """Records something that the user should know."""
        self.notes.append(text)

    def note_once(self, text: str) -> None:
        """Records something that the user should know, unless it was said."""
        if text not in self.notes:
            self.note(text)

    def dialect(self, type_: str) -> str:
        """The meaning that the caller chose for the layer type; "" where none was."""
        return self.dialects.get(type_, "")

    def decided(self, type_: str, meaning: str, why: str) -> str:
        """Adds the note that the file itself decides the `meaning` of the type, and
        why."""
        self.note_once(choice_note(type_, meaning, why))
        return meaning

    def undecided(self, type_: str) -> None:
        """Records the problem that the file does not decide the meaning of the type."""
        self.ambiguous(None, undecided(type_))

    def close(self) -> None:
        """Raises ConversionError with every problem, unread fields among them."""
        report_unread(self)
        if self.problems:
            raise ConversionError(self.problems)

    def _fields(self, name: str) -> Iterator[Field]:
        self.known[name] = None
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
        self.children.append(child)
        return child

    def _convert(self, found: Field, default: T) -> T:
        value, type_ = found.value, type(default)
        if isinstance(value, Scalar):
            known = converted(value, type_)
            if known is not None and not (type_ is int and is_beyond(found, self.path)):
                return known
        self.refuse(found, f"{found.name} is {wanted(found, type_, self.path)}")
        return default

    @property
    def path(self) -> tuple[str, ...]:
        """The names of the messages around this one, and its own."""
        return (*(self.parent.path if self.parent else ()), self.name)
