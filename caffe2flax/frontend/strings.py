"""String literals of protobuf's text format: quotes off, escapes resolved, decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})"
    r"|(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))|(.))",
    re.DOTALL,
)
_PAIR = re.compile(rb"\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])")
_SIMPLE = dict(zip("abfnrtv\\?'\"", "\a\b\f\n\r\t\v\\?'\"", strict=True))


class EscapeError(ValueError):
    """An escape that protobuf does not know, at an offset into one of the literals."""

    def __init__(self, message: str, literal: int, offset: int):
        super().__init__(message)
        self.literal = literal
        self.offset = offset


def unquote(literals: Sequence[str]) -> str:
    """The text of adjacent literals, each still in its quotes.

    Escapes name bytes, so a character may begin in one literal and end in the next;
    bytes that are no UTF-8 become `\\xNN`. Raises EscapeError.
    """
    if not any("\\" in literal for literal in literals):
        return "".join([literal[1:-1] for literal in literals])
    data = b"".join(_bytes(number, literal) for number, literal in enumerate(literals))
    return _PAIR.sub(_join, data).decode("utf-8", "backslashreplace")


def _bytes(number: int, literal: str) -> bytes:
    parts: list[bytes] = []
    end = 1
    for match in _ESCAPE.finditer(literal, 1, len(literal) - 1):
        parts.append(_encode(literal[end : match.start()]))
        try:
            parts.append(_escape(match))
        except ValueError as error:
            raise EscapeError(str(error), number, match.start()) from None
        end = match.end()
    parts.append(_encode(literal[end:-1]))
    return b"".join(parts)


def _escape(match: re.Match[str]) -> bytes:
    octal, hexadecimal, short, long, simple = match.groups()
    if octal:
        if int(octal, 8) > 0xFF:
            raise ValueError(f"the escape \\{octal} is beyond one byte (\\377)")
        return bytes([int(octal, 8)])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if short or long:
        code = int(short or long, 16)
        if code > 0x10FFFF:
            raise ValueError(f"the escape \\U{long} is beyond Unicode (\\U0010ffff)")
        return _encode(chr(code))
    if simple not in _SIMPLE:
        raise ValueError(
            f"unknown escape \\{simple} in a string; write \\\\ for a backslash"
        )
    return _encode(_SIMPLE[simple])


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _join(match: re.Match[bytes]) -> bytes:
    """One character for the two halves `\\ud83d\\ude00` that UTF-16 writes it in."""
    return (
        match[0]
        .decode("utf-8", "surrogatepass")
        .encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le")
        .encode()
    )
