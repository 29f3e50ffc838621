"""What both file formats are read into: a tree of named fields that remembers where
each stood.

No schema is applied here. Unknown fields and layer types survive, so that whoever asks
for a field decides what it may be (`caffe2flax.ir.params.Params`), and what nobody
asked for can be reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from caffe2flax.errors import Span

Kind = Literal["number", "word", "string"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as it was written: `0x4`, `2.`, `.875`, `-1e-3` are numbers; `MAX`,
    `true`, `inf`, `-nan` are words; strings are unescaped, concatenated and decoded."""

    kind: Kind
    text: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Field:
    """`name: value` or `name { ... }`; a list `name: [a, b]` is one Field for each
    element."""

    name: str
    value: Scalar | Message
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """Fields in the order of the file, repeated ones included."""

    fields: tuple[Field, ...]
    span: Span = field(compare=False)

    def all(self, name: str) -> Iterator[Field]:
        """Every field called `name`, in order."""
        return (f for f in self.fields if f.name == name)

    def has(self, name: str) -> bool:
        return any(f.name == name for f in self.fields)
