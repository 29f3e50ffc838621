"""Statements too long for a line, split as ruff splits them.

A bracket is split where what it holds does not fit: its content in a line of its own,
else an item a line with a comma behind each. What stands in front of a later bracket
stays in its line as long as that bracket's first character fits as well. A value
without brackets that could be split, or with several operators, is put into brackets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from caffe2flax.codegen.brackets import (
    Bracket,
    Item,
    Line,
    Text,
    clauses,
    first_line,
    flat,
    links,
    needs_brackets,
    operands,
    parse,
    split,
)

STEP = 4
OTHERS = ("assert", "async", "del", "elif", "for", "global", "if", "import", "while")
"""Statements that begin with these are left as they are."""
ASSIGNMENT = re.compile(r" (?:[-+*/%@&|^]|\*\*|//|<<|>>)?= ")


class UnknownError(Exception):
    """None of the statements that we write."""


def split_statement(line: str, width: int) -> list[str]:
    """A statement in lines of `width` where one is not enough; the line as it is where
    nothing can be split, or it is none of the statements that we write."""
    code = line.lstrip(" ")
    word, parsed = code.partition(" ")[0], parse(code)
    if parsed is None:
        return [line]
    try:
        return _Printer(len(line) - len(code), width).statement(parsed, word)
    except UnknownError:
        return [line]


class _Printer:
    """Writes the lines of a statement; `line` is the one that is not complete."""

    def __init__(self, indent: int, width: int) -> None:
        self.indent = indent
        self.width = width
        self.lines: list[str] = []
        self.line = " " * indent

    def end_line(self, tail: str = "") -> None:
        self.lines.append(self.line + tail)
        self.line = ""

    def statement(self, parsed: Line, word: str) -> list[str]:
        """The lines of a statement whose first word is `word`. Raises UnknownError."""
        items = parsed.items
        tail = f"  {parsed.comment}" if parsed.comment else ""
        if word in OTHERS or word.startswith("@"):
            raise UnknownError
        if word == "from":
            self._imports(items)
        elif word in ("return", "raise"):
            self._result(items, word, tail)
        elif _ends_in_colon(items):
            self._header(items, word, tail)
        else:
            self._assignment(items, tail)
        self.end_line(tail)
        return self.lines

    def _header(self, items: Sequence[Item], word: str, tail: str) -> None:
        """What begins a block; of a signature, the parameters are split first."""
        if len(items) > 1:
            raise UnknownError
        head = items[0]
        at = next((i for i, p in enumerate(head) if isinstance(p, Bracket)), None)
        bracket = None if at is None else head[at]
        if word == "def" and isinstance(bracket, Bracket) and bracket.items:
            self.line += flat(head[:at])
            self._expand(bracket, self.indent, lone_comma=True)
            head = head[head.index(bracket) + 1 :]
        self._chain(head, self.indent, tail)

    def _imports(self, items: Sequence[Item]) -> None:
        """`from module import (names)`."""
        head, import_, first = flat(items[0]).partition(" import ")
        if not import_ or any(isinstance(p, Bracket) for each in items for p in each):
            raise UnknownError
        self.line += f"{head} import ("
        self._list([(Text(first),), *items[1:]], self.indent)
        self.line += ")"

    def _result(self, items: Sequence[Item], word: str, tail: str) -> None:
        first = items[0][0]
        if not isinstance(first, Text) or not first.startswith(f"{word} "):
            raise UnknownError
        rest = Text(first.removeprefix(f"{word} "))
        values = [(*filter(None, [rest]), *items[0][1:]), *items[1:]]
        self.line += f"{word} "
        if len(values) == 1:
            self._value(values[0], tail)
        elif not self._pair(values, tail):
            self._tuple(values)

    def _pair(self, values: Sequence[Item], tail: str) -> bool:
        """Whether two values to return could be split at their own brackets."""
        if len(values) != 2:
            return False
        joined = (*values[0], Text(", "), *values[1])
        splits = any(isinstance(part, Bracket) and part.items for part in joined)
        if not splits or len(self.line) + first_line(joined) > self.width:
            return False
        self._chain(joined, self.indent, tail)
        return True

    def _assignment(self, items: Sequence[Item], tail: str) -> None:
        """`targets = values`, or an expression alone."""
        signs = [
            (i, j, match.start(), match[0])
            for i, item in enumerate(items)
            for j, part in enumerate(item)
            if isinstance(part, Text)
            for match in ASSIGNMENT.finditer(part)
        ]
        if not signs:
            if len(items) > 1:
                raise UnknownError
            self._chain(items[0], self.indent, tail)
            return
        i, j, place, sign = signs[0]
        if len(signs) > 1 or sign != " = ":
            raise UnknownError
        (_, target), (_, value) = split(items[i], [(j, place, "=")])
        targets, values = [*items[:i], target], [value, *items[i + 1 :]]
        if any(isinstance(p, Bracket) for each in targets for p in each):
            raise UnknownError
        self._targets(targets, value)
        if len(values) == 1:
            self._value(values[0], tail)
        else:
            self._tuple(values)

    def _tuple(self, values: Sequence[Item]) -> None:
        self.line += "("
        self._list(values, self.indent)
        self.line += ")"

    def _targets(self, targets: Sequence[Item], value: Item) -> None:
        """Targets with `=` behind them, in one line where the value's first character
        fits there, too."""
        shown = ", ".join(map(flat, targets)) + " = "
        room = len("[]" if flat(value) in ("[]", "()", "{}") else "(")
        if len(targets) == 1 or self.indent + len(shown) + room <= self.width:
            self.line += shown
            return
        self._tuple(targets)
        self.line += " = "

    def _value(self, value: Item, tail: str) -> None:
        """A value, in brackets of its own where it needs them, or where its line is too
        long up to its first bracket, and would not be in those."""
        length, first = len(flat(value)), first_line(value)
        if len(self.line) + length + len(tail) <= self.width:
            self.line += flat(value)
            return
        behind = len(tail) if first == length else 0
        fits = len(self.line) + first + behind <= self.width
        helps = self.indent + STEP + first <= self.width or len(operands(value)) > 1
        if not needs_brackets(value) and (fits or not helps):
            self._chain(value, self.indent, tail)
            return
        self.line += "("
        self.end_line()
        self._item(value, self.indent + STEP, "")
        self.line = " " * self.indent + ")"

    def _expand(
        self, bracket: Bracket, indent: int, *, lone_comma: bool = False
    ) -> None:
        """A bracket over several lines, the last of which is not ended. lone_comma: a
        comma stands behind the only item, too."""
        inner = indent + STEP
        items, content = bracket.items, bracket.content
        fits = inner + len(content) <= self.width
        whole = lone_comma if len(items) == 1 else not (bracket.follows and fits)
        self.line += bracket.open
        if whole or bracket.comma:
            self._list(items, indent)
        else:
            self.end_line()
            parts = [] if fits else clauses(items[0])
            if fits:
                self.line = " " * inner + content
                self.end_line()
            elif parts:
                for word, part in parts:
                    self.line = " " * inner + word
                    (self._chain if word == "for " else self._operands)(part, inner, "")
                    self.end_line()
            else:
                self._item(items[0], inner, "")
            self.line = " " * indent
        self.line += bracket.close

    def _list(self, items: Sequence[Item], indent: int) -> None:
        """Lines between brackets, an item and a comma each, and the start of the line
        behind."""
        self.end_line()
        for item in items:
            self._item(item, indent + STEP, ",")
        self.line = " " * indent

    def _item(self, item: Item, indent: int, tail: str) -> None:
        """Lines of their own for what is in a bracket, `tail` behind the last."""
        self.line = " " * indent
        self._operands(item, indent, tail)
        self.end_line(tail)

    def _operands(self, item: Item, indent: int, tail: str) -> None:
        """Goes on in the line; where it does not fit, with a line for each operand, or
        each method that is called on a result."""
        shown = flat(item)
        if len(self.line) + len(shown) + len(tail) <= self.width:
            self.line += shown
            return
        parts = operands(item)
        if len(parts) > 1:
            for i, (operator, operand) in enumerate(parts):
                if i:
                    self.end_line()
                    self.line = f"{' ' * indent}{operator} "
                behind = tail if i == len(parts) - 1 else ""
                self._operands(operand, indent, behind)
            return
        chain = links(item)
        for i, link in enumerate(chain):
            if i:
                self.end_line()
                self.line = " " * indent
            self._chain(link, indent, tail if i == len(chain) - 1 else "")

    def _chain(self, item: Item, indent: int, tail: str) -> None:
        """Goes on in the line, and splits each bracket behind which there is no room
        for what follows up to the next one."""
        needed = len(tail)
        rooms: list[int] = []
        for part in reversed(item):
            rooms.append(needed)
            if not isinstance(part, Bracket):
                needed += len(part)
            elif part.items:
                needed = 1
            else:
                needed += 2
        for part, room in zip(item, reversed(rooms), strict=True):
            if not isinstance(part, Bracket):
                self.line += part
            elif part.items and len(self.line) + len(part.flat) + room > self.width:
                self._expand(part, indent)
            else:
                self.line += part.flat


def _ends_in_colon(items: Sequence[Item]) -> bool:
    last = items[-1][-1]
    return isinstance(last, Text) and last.endswith(":")
