"""A line of Python taken apart at its brackets, commas and operators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<comma>,)|(?P<comment>#.*)"""
    r"""|(?P<text>[^"'#()\[\]{},]++)"""
)
CLOSING = {"(": ")", "[": "]", "{": "}"}
DEEPEST = 60
"""Brackets inside one another that are taken apart."""

OPERATOR = re.compile(
    r" (\*\*|//|<<|>>|==|!=|<=|>=|not in|is not|in|is|and|or|if|else|[-+*/%@|^&<>])"
    r"(?= )"
)
CLAUSE = re.compile(r" (for|if)(?= )")
LEVELS = (
    ("if", "else"),
    ("or",),
    ("and",),
    ("in", "not in", "is", "is not", "==", "!=", "<", "<=", ">", ">="),
    ("|",),
    ("^",),
    ("&",),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "//", "%", "@"),
    ("**",),
)
"""Operators from those that bind least."""
LEVEL = {operator: level for level, each in enumerate(LEVELS) for operator in each}


class Text(str):
    """Names, numbers, operators and what else has no brackets, and no strings."""

    __slots__ = ()


class String(str):
    """A literal, quotes included."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Bracket:
    """`open`, items with commas between them, and what closes it.

    follows: a call's or a subscript's, behind what is called. comma: one stands behind
    the last item, too.
    """

    open: str
    items: tuple[Item, ...]
    follows: bool
    comma: bool
    flat: str
    """All of it in one line."""

    @property
    def close(self) -> str:
        return CLOSING[self.open]

    @property
    def content(self) -> str:
        return self.flat[1:-1]

    @property
    def is_subscript(self) -> bool:
        return self.follows and self.open == "["


Part = Text | String | Bracket
Item = tuple[Part, ...]
"""What is between two commas."""


@dataclass(frozen=True, slots=True)
class Line:
    """The items of a line, a comma after each but the last, and its comment."""

    items: tuple[Item, ...]
    comment: str


def flat(parts: Iterable[Part]) -> str:
    """In one line."""
    return "".join(p.flat if isinstance(p, Bracket) else p for p in parts)


class _Open:
    """A bracket that is being read."""

    __slots__ = ("items", "open", "parts")

    def __init__(self, open_: str) -> None:
        self.open = open_
        self.items: list[Item] = []
        self.parts: list[Part] = []

    def close(self, follows: bool) -> Bracket:
        comma = bool(self.items) and not self.parts
        if self.parts:
            self.end_item()
        shown = ", ".join(map(flat, self.items)) + "," * comma
        text = f"{self.open}{shown}{CLOSING[self.open]}"
        return Bracket(self.open, tuple(self.items), follows, comma, text)

    def end_item(self) -> None:
        self.items.append(tuple(self.parts))
        self.parts = []

    def add_text(self, text: str) -> None:
        text = text if self.parts or not self.items else text.lstrip(" ")
        if text:
            self.parts.append(Text(text))


def _opens_lambda(part: object) -> bool:
    """Whether a comma behind it may be one between the parameters of a lambda."""
    return isinstance(part, Text) and bool(re.search(r"\blambda\b[^:]*$", part))


def parse(code: str) -> Line | None:
    """The statement in a line without its indentation; None where it is not whole, or
    is not written as we write code: one space behind a comma, no other line."""
    stack = [_Open("")]
    comment, end = "", 0
    for match in TOKEN.finditer(code):
        if match.start() != end:
            return None
        end = match.end()
        kind, text = match.lastgroup, match[0]
        top = stack[-1]
        if kind == "text":
            top.add_text(text)
        elif kind == "string":
            top.parts.append(String(text))
        elif kind == "comma":
            if not top.parts or any(map(_opens_lambda, top.parts)):
                return None
            top.end_item()
        elif kind == "open":
            stack.append(_Open(text))
        elif kind == "comment":
            comment = text
        elif len(stack) == 1 or CLOSING[top.open] != text or len(stack) > DEEPEST:
            return None
        else:
            stack.pop()
            outer = stack[-1].parts
            outer.append(top.close(bool(outer) and _is_called(outer[-1])))
    if len(stack) > 1 or end != len(code) or not stack[0].parts:
        return None
    stack[0].end_item()
    items = tuple(stack[0].items)
    shown = ", ".join(map(flat, items))
    if comment:
        items = (*items[:-1], _stripped(items[-1]))
        shown += comment
    return Line(items, comment) if shown == code else None


def _is_called(part: Part) -> bool:
    """Whether a bracket behind `part` is a call's or a subscript's."""
    if isinstance(part, Text):
        return part[-1].isalnum() or part[-1] == "_"
    return True


def _stripped(item: Item) -> Item:
    """Without the space in front of a comment."""
    last = item[-1]
    if not isinstance(last, Text):
        return item
    text = last.rstrip()
    return (*item[:-1], Text(text)) if text else item[:-1]


def operators(item: Item) -> Iterator[tuple[int, int, str]]:
    """(number of the part, place in it, operator) of all outside of brackets."""
    for i, part in enumerate(item):
        if isinstance(part, Text):
            for match in OPERATOR.finditer(part):
                yield i, match.start(), match[1]


def operands(item: Item) -> list[tuple[str, Item]]:
    """(operator in front, operand), split at the operators that bind least; one where
    there is none, or where a lambda's body has them."""
    if any(isinstance(part, Text) and "lambda" in part for part in item):
        return [("", item)]
    found = list(operators(item))
    if not found:
        return [("", item)]
    least = min(LEVEL[operator] for *_, operator in found)
    return split(item, [each for each in found if LEVEL[each[2]] == least])


def split(item: Item, at: Sequence[tuple[int, int, str]]) -> list[tuple[str, Item]]:
    """`item` cut at words in it, given as (number of the part, place, word), each with
    a space on both sides."""
    result: list[tuple[str, Item]] = []
    word, start, offset = "", 0, 0
    for i, place, next_word in at:
        result.append((word, _slice(item, start, offset, i, place)))
        word, start, offset = next_word, i, place + len(next_word) + 2
    end = len(item) - 1
    last = item[end]
    length = len(last) if isinstance(last, str) else 0
    result.append((word, _slice(item, start, offset, end, length)))
    return result


def _slice(item: Item, first: int, start: int, last: int, end: int) -> Item:
    """From a place in part `first` to one in part `last`, which is a text if `end` is
    not 0."""
    parts: list[Part] = []
    for i in range(first, last + 1):
        part = item[i]
        if not isinstance(part, Text):
            parts.append(part)
            continue
        low = start if i == first else 0
        high = end if i == last else len(part)
        if low < high:
            parts.append(Text(part[low:high]))
    return tuple(parts)


def needs_brackets(value: Item) -> bool:
    """Whether a value that does not fit stands in brackets in any case: with several
    operators or methods called on results, or without a bracket at one of its ends."""
    levels = [LEVEL[operator] for *_, operator in operators(value)]
    if len(operands(value)) == 1:
        return len(links(value)) > 1
    least = min(levels)
    if levels.count(least) > (2 if least == LEVEL["if"] else 1):
        return True
    first, last = value[0], value[-1]
    ends = isinstance(last, Bracket) and last.items and not last.is_subscript
    return not ends and not (isinstance(first, Bracket) and first.items)


def first_line(value: Item) -> int:
    """How long a value is up to the first bracket that can be split."""
    length = 0
    for part in value:
        if isinstance(part, Bracket) and part.items:
            return length + 1
        length += len(part.flat) if isinstance(part, Bracket) else len(part)
    return length


def clauses(item: Item) -> list[tuple[str, Item]]:
    """A comprehension as its element and its clauses, each with the word that it begins
    with; empty for anything else."""
    found = [
        (i, match.start(), match[1])
        for i, part in enumerate(item)
        if isinstance(part, Text)
        for match in CLAUSE.finditer(part)
    ]
    words = [word for *_, word in found]
    if "for" not in words:
        return []
    parts = split(item, found[words.index("for") :])
    return [(f"{word} " if word else "", part) for word, part in parts]


def links(item: Item) -> list[Item]:
    """A chain of calls cut in front of each method that is called on a result; whole
    where there is only one."""
    cuts = [
        i
        for i, part in enumerate(item)
        if i and isinstance(item[i - 1], Bracket)
        if isinstance(part, Text) and part.startswith(".")
    ]
    if len(cuts) < 2:
        return [item]
    return [item[i:j] for i, j in pairwise([0, *cuts, len(item)])]
