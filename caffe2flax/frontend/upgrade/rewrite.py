"""An upgraded net -> text, in the words and with the comments of the old one.

What the upgrade left alone is copied as it stands. What it changed is written anew,
with the comments that stood before it or behind it on the line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.prototxt import parse
from caffe2flax.frontend.upgrade import INLINE_NETS, upgrade
from caffe2flax.frontend.upgrade.solver import upgrade_solver

INDENT = "  "
WIDTH = 80
"""Columns up to which a short message stays on one line."""

_MARGIN = re.compile(r"[ \t]*")
_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
      | (?P<string>"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+')
      | (?P<open>[{<\[]) | (?P<close>[}>\]]) | (?P<mark>[:;,-])
      | (?P<other>[^\s\#"'{}<>\[\]:;,-]+(?:-(?=[0-9])[^\s\#"'{}<>\[\]:;,-]+)*)""",
    re.VERBOSE,
)


def upgraded_text(text: str, file: str = "<prototxt>") -> str:
    """The prototxt `text` in the current format; the same text where it is current.

    A solver is upgraded, and its nets inside it. Raises ConversionError where the text
    cannot be upgraded.
    """
    old = parse(text, file)
    new = _upgraded(old)
    if new == old:
        return text
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n")
    old = parse(plain, file)
    written = _Writer(plain, old).write(_upgraded(old))
    assert parse(written) == new, "the text does not say what the upgraded net does"
    return written.replace("\n", "\r\n") if "\r\n" in text else written


def _upgraded(message: Message) -> Message:
    """The net, or the solver with its nets, in the current format."""
    message = upgrade_solver(message)
    if not any(message.has(name) for name in INLINE_NETS):
        return upgrade(message)
    fields = tuple(
        replace(f, value=upgrade(f.value))
        if f.name in INLINE_NETS and isinstance(f.value, Message)
        else f
        for f in message.fields
    )
    return replace(message, fields=fields)


class _Token(NamedTuple):
    kind: str
    start: int
    end: int


class _Writer:
    """One old text and what of it has been used."""

    def __init__(self, text: str, old: Message):
        self.text = text
        self.tokens = [
            _Token(m.lastgroup or "", m.start(), m.end()) for m in _TOKEN.finditer(text)
        ]
        self.at = {token.start: i for i, token in enumerate(self.tokens)}
        self.partner = self._partners()
        self.lines = [0, *(m.end() for m in re.finditer("\n", text))]
        self.fields: dict[int, list[Field]] = {}
        self._collect(old)
        self.used: set[int] = set()
        """Comments that have been written, by token."""

    def _partners(self) -> dict[int, int]:
        """The closing bracket of each opening one, both by token."""
        found: dict[int, int] = {}
        opened: list[int] = []
        for i, token in enumerate(self.tokens):
            if token.kind == "open":
                opened.append(i)
            elif token.kind == "close" and opened:
                found[opened.pop()] = i
        return found

    def _collect(self, message: Message) -> None:
        for field in message.fields:
            self.fields.setdefault(self._place(field), []).append(field)
            if isinstance(field.value, Message):
                self._collect(field.value)

    def _place(self, field: Field) -> int:
        """Where the field begins in the old text."""
        return self.lines[field.span.line - 1] + field.span.column - 1

    def write(self, net: Message) -> str:
        parts = []
        for field in net.fields:
            place = self._place(field)
            parts.append((place, self._blank_before(place), self.field(field, "")))
        pieces: list[str] = []
        comments = (i for i, t in enumerate(self.tokens) if t.kind == "comment")
        rest = deque(i for i in comments if i not in self.used)
        for place, blank, text in parts:
            pieces.append("\n" * (blank and bool(pieces)))
            while rest and self.tokens[rest[0]].start < place:
                pieces.append(f"{self._comment(rest.popleft())}\n")
            pieces.append(f"{text}\n")
        pieces += (f"{self._comment(i)}\n" for i in rest)
        return "".join(pieces)

    def _blank_before(self, place: int) -> bool:
        """Whether an empty line stands before the field and its comments."""
        first = min([self.at[place], *self._leading(place)])
        start = self.tokens[first - 1].end if first else 0
        return self.text.count("\n", start, self.tokens[first].start) > 1

    def _blank_after(self, token: int) -> bool:
        following = self.tokens[token + 1].start
        return self.text.count("\n", self.tokens[token].end, following) > 1

    def _comment(self, token: int) -> str:
        _, start, end = self.tokens[token]
        return self.text[start:end].rstrip()

    def _leading(self, place: int) -> list[int]:
        """Comments on lines of their own before the field."""
        found: list[int] = []
        i = self.at[place] - 1
        while i >= 0 and self.tokens[i].kind == "comment" and self._alone(i):
            found.insert(0, i)
            i -= 1
        return found

    def _alone(self, token: int) -> bool:
        before = self.tokens[token - 1].end if token else 0
        return not token or "\n" in self.text[before : self.tokens[token].start]

    def _trailing(self, token: int) -> list[int]:
        """The comment behind `token` on its line, and that of a separator."""
        i = token + 1
        while i < len(self.tokens) and self._is_separator(i):
            i += 1
        known = i < len(self.tokens) and self.tokens[i].kind == "comment"
        return [i] if known and not self._alone(i) else []

    def _is_separator(self, token: int) -> bool:
        _, start, end = self.tokens[token]
        return self.text[start:end] in (";", ",")

    def _take(self, comments: Iterable[int]) -> list[str]:
        """The texts of those comments that have not been written yet."""
        fresh = [i for i in comments if i not in self.used]
        self.used.update(fresh)
        return [self._comment(i) for i in fresh]

    def _last(self, place: int) -> int:
        """The last token of the field at `place`."""
        i = self.at[place]
        if self.tokens[i].kind == "open":  # the name of an extension
            i = self.partner[i]
        i = self._next(i)
        if self._is(i, ":"):
            i = self._next(i)
        if self._is(i, "-"):
            i = self._next(i)
        if self.tokens[i].kind == "open":
            return self.partner[i]
        while self.tokens[i].kind == "string":
            following = self._next(i)
            if following >= len(self.tokens) or self.tokens[following].kind != "string":
                break
            i = following
        return i

    def _next(self, token: int) -> int:
        i = token + 1
        while i < len(self.tokens) and self.tokens[i].kind == "comment":
            i += 1
        return i

    def _is(self, token: int, text: str) -> bool:
        return self.text.startswith(text, self.tokens[token].start)

    def field(self, field: Field, indent: str) -> str:
        """The field with its comments, indented, without a final line break."""
        place = self._place(field)
        lines: list[str] = []
        for token in self._leading(place):
            lines += (f"{indent}{comment}" for comment in self._take([token]))
            if lines and self._blank_after(token):
                lines.append("")
        kept = self.fields.get(place) == [field]
        if kept:
            last = self._last(place)
            inside = range(self.at[place], last + 1)
            self.used.update(i for i in inside if self.tokens[i].kind == "comment")
            lines.append(self._copied(place, self.tokens[last].end, indent))
            behind = self._take(self._trailing(last))
        elif isinstance(field.value, Scalar):
            lines.append(f"{indent}{field.name}: {_scalar(field.value)}")
            behind = self._take(self._behind(field, place))
        else:
            lines.append(self._message(field, field.value, indent))
            behind = self._take(self._behind(field, place))
        if behind:
            lines[-1] += f"  {' '.join(behind)}"
        return "\n".join(lines)

    def _behind(self, field: Field, place: int) -> list[int]:
        """The comment behind what became of the field, if it stood here itself."""
        names = [old.name for old in self.fields.get(place, ())]
        if "input" in names and field.name != "top":
            return []
        same = field.name in names or field.name == "layer"
        if not same and isinstance(field.value, Message):
            return []
        return self._trailing(self._last(place))

    def _copied(self, start: int, end: int, indent: str) -> str:
        """A piece of the old text, its lines moved as far as the first one."""
        first, *rest = self.text[start:end].split("\n")
        line = self.lines[bisect_right(self.lines, start) - 1]
        before = _MARGIN.match(self.text, line, start)
        margin = before[0] if before else ""
        moved = (
            f"{indent}{line.removeprefix(margin)}" if line.strip() else ""
            for line in rest
        )
        return "\n".join([f"{indent}{first}", *moved])

    def _message(self, field: Field, message: Message, indent: str) -> str:
        place = self._place(field)
        opening = self._opening(field, place)
        brace = self._take(self._trailing(opening)) if opening is not None else []
        if not brace and self._is_short(field, message, indent):
            return indent + _inline(field)
        head = f"{indent}{field.name} {{" + "".join(f"  {text}" for text in brace)
        lines = [head, *(self.field(f, indent + INDENT) for f in message.fields)]
        if opening is not None:
            closing = self.partner[opening]
            i = closing - 1
            ending: list[int] = []
            while self.tokens[i].kind == "comment":
                ending.insert(0, i)
                i -= 1
            lines += (f"{indent}{INDENT}{text}" for text in self._take(ending))
        return "\n".join([*lines, f"{indent}}}"])

    def _opening(self, field: Field, place: int) -> int | None:
        """The brace of the message that this one was."""
        old = self.fields.get(place, ())
        if len(old) != 1 or not isinstance(old[0].value, Message):
            return None
        if field.name not in (old[0].name, "layer"):
            return None
        i = self._next(self.at[place])
        i = self._next(i) if self._is(i, ":") else i
        return i if self.tokens[i].kind == "open" else None

    def _is_short(self, field: Field, message: Message, indent: str) -> bool:
        """Whether a message that stood on one line, or is new, may do so."""
        if message.fields and message.span.line != message.fields[0].span.line:
            return False
        places = [self._place(f) for f in _all_fields(message)]
        noted = any(self._fresh(self._leading(p)) for p in places)
        noted |= any(self._fresh(self._trailing(self._last(p))) for p in places)
        return not noted and len(indent + _inline(field)) <= WIDTH

    def _fresh(self, comments: Sequence[int]) -> bool:
        return any(i not in self.used for i in comments)


def _all_fields(message: Message) -> Iterable[Field]:
    for field in message.fields:
        yield field
        if isinstance(field.value, Message):
            yield from _all_fields(field.value)


def _inline(field: Field) -> str:
    if isinstance(field.value, Scalar):
        return f"{field.name}: {_scalar(field.value)}"
    inner = " ".join(map(_inline, field.value.fields))
    return f"{field.name} {{ {inner} }}" if inner else f"{field.name} {{ }}"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _scalar(value: Scalar) -> str:
    if value.kind != "string":
        return value.text
    return '"' + "".join(map(_escaped, value.text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character < " " or character == "\x7f":
        return f"\\{ord(character):03o}"
    return character
