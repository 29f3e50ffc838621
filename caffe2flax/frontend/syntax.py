"""What a person is told about a syntax error in a prototxt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

from caffe2flax.errors import Problem, Span

if TYPE_CHECKING:
    from lark import Token, UnexpectedInput

_SHOWN = 40
_SEARCHED = 1000
"""Characters of a line that is searched for placeholders."""
_CLOSING = {"{": "}", "<": ">", "[": "]"}
_NUMBER = re.compile(r"[0-9.][A-Za-z0-9_.]{0,60}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_STRING = re.compile(
    r"""(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+')"""
)

_PLACEHOLDER = re.compile(
    r"\$\{\w+\}|\$\(\w+\)|\$\w+\$?|@\w+@|%\(\w+\)[a-z]|%[a-z]\b"
    r"|\{\{.*?\}\}|\{%.*?%\}|<%.*?%>|(?<=: )\{\w+\}|(?<=: )<\w+>"
)
"""What scripts that write prototxts leave in their templates to fill in."""

_CONTROLS = {
    "\0": "a NUL character, which no text has",
    "\x1a": "Ctrl-Z, with which DOS ended its files",
}


class Source:
    """One text being parsed: its lines, and the brackets that are open."""

    __slots__ = ("_latest", "_lines", "depth", "file", "opened", "text")

    def __init__(self, text: str, file: str):
        self.text = text
        self.file = file
        self.depth = 0
        self.opened: list[Token] = []
        self._latest: tuple[Token, Token | None] | None = None
        self._lines: dict[int, str] = {}

    def open(self, token: Token) -> None:
        """Take note of an opening bracket."""
        self.opened.append(token)
        self._latest = (token, None)

    def close(self, token: Token) -> None:
        """Take note of a closing bracket."""
        self._latest = (token, self.opened.pop() if self.opened else None)

    def undo(self, token: Token) -> None:
        """Forget `token` if it is a bracket: the parser refused what the lexer saw."""
        if self._latest is None or self._latest[0] is not token:
            return
        if token in _CLOSING:
            self.opened.pop()
        elif opening := self._latest[1]:
            self.opened.append(opening)

    def span(self, token: Token, offset: int = 0) -> Span:
        """Where `token` begins, or `offset` code points further on its line."""
        line, column, start = token.line, token.column, token.start_pos
        assert line is not None
        assert column is not None
        assert start is not None
        return self.place(line, column, start, offset)

    def place(self, line: int, column: int, position: int, offset: int = 0) -> Span:
        """The span of `position`, which is `column` of `line`."""
        text = self._lines.get(line)
        if text is None:
            start = position - column + 1
            end = self.text.find("\n", start)
            text = self.text[start : None if end < 0 else end].removesuffix("\r")
            self._lines[line] = text
        return Span(self.file, line, column + offset, text)


def explain(error: UnexpectedInput, source: Source) -> Problem:
    """The problem behind a parser's error, in the words of the format."""
    from lark import UnexpectedCharacters, UnexpectedToken

    last = _last(error)
    if isinstance(error, UnexpectedToken):
        token, names = error.token, error.expected
        if token.type == "$END":
            span = source.span(last, len(last)) if last else Span(source.file)
            return _problem(names, last, source, "the end of the file", span)
        source.undo(token)
        span, position = source.span(token), token.start_pos or 0
    else:
        assert isinstance(error, UnexpectedCharacters)
        names, position = error.allowed, error.pos_in_stream or 0
        span = source.place(error.line, error.column, position)
        if message := _malformed(source.text, position):
            return Problem(message, span)
    if template := _placeholder(span):
        return Problem(template, span)
    found = _found(source.text, position)
    # Only a value without its quotes, as `name: conv1/relu`, runs into what follows.
    adjacent = last and last.type == "NAME" and last.end_pos == position
    if adjacent and "COLON" not in names and found[1] not in "{}<>[]:=":
        found += "; text needs quotes"
    return _problem(names, last, source, found, span)


def _last(error: UnexpectedInput) -> Token | None:
    """The token before the one that did not fit."""
    history = getattr(error, "token_history", None)
    if history:
        return cast("Token", history[-1])
    interactive = getattr(error, "interactive_parser", None)
    return interactive.lexer_thread.state.last_token if interactive else None


def _problem(
    names: Collection[str], last: Token | None, source: Source, found: str, span: Span
) -> Problem:
    return Problem(f"expected {_expected(names, last, source)}, found {found}", span)


def _expected(names: Collection[str], last: Token | None, source: Source) -> str:
    if "NUMBER" in names:
        if last is not None and last.type == "MINUS":
            return "a number after `-`"
        return "a value"
    if "COLON" in names:
        return f"`:` or `{{` after `{_short(str(last))}`"
    if "NAME" not in names and "LBRACE" in names:
        return "a message `{ ... }`"
    if not source.opened:
        return "a field name"
    bracket = source.opened[-1]
    what = "`,`" if bracket == "[" else "a field name"
    closing = _CLOSING[bracket]
    return (
        f"{what} or the `{closing}` that closes the `{bracket}` of line {bracket.line}"
    )


def _malformed(text: str, position: int) -> str:
    """What is wrong with a token in itself; "" when it only stands wrong."""
    character = text[position]
    if character in "\"'" and not _STRING.match(text, position):
        return f"this string has no closing {character} on its line"
    if number := _NUMBER.match(text, position):
        shown = _short(number[0])
        if re.match(r"0[0-9]", shown):
            return f"`{shown}` is not a number: after a leading 0 come octal digits"
        return f"`{shown}` is not a number"
    return ""


def nul(text: str, file: str) -> Problem:
    """The problem of a text with a NUL character."""
    position = text.index("\0")
    start = text.rfind("\n", 0, position) + 1
    line = text.count("\n", 0, position) + 1
    span = Source(text, file).place(line, position - start + 1, position)
    return Problem(f"found {_found(text, position)}", span)


def _placeholder(span: Span) -> str:
    """What is said where the parser stopped within a placeholder; "" elsewhere."""
    if len(span.text) > _SEARCHED:
        return ""
    for match in _PLACEHOLDER.finditer(span.text):
        if match.start() < span.column <= match.end():
            return (
                f"`{_short(match[0])}` is a placeholder: this is a template, to be "
                "filled in by the script that it belongs to"
            )
    return ""


def _found(text: str, position: int) -> str:
    character = text[position]
    if name := _NAME.match(text, position):
        return f"`{_short(name[0])}`"
    if number := _NUMBER.match(text, position):
        return f"the number `{_short(number[0])}`"
    if character in "\"'":
        return "a string"
    if character in "}>":
        return f"`{character}`"
    if character == "/" and text[position : position + 2] in ("//", "/*"):
        return f"`{text[position : position + 2]}` (comments begin with `#`)"
    if character.isascii() and character.isprintable():
        return f"`{character}`"
    if not character.isprintable():
        about = _CONTROLS.get(character, "a control character")
        if unicodedata.category(character) == "Cc":
            return f"U+{ord(character):04X} ({about}); delete it"
    name_of = unicodedata.name(character, "a control character").lower()
    shown = f"`{character}` " if character.isprintable() else ""
    return f"{shown}U+{ord(character):04X} ({name_of})"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
