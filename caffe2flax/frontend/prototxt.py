"""Protobuf's text format -> Message, with the place of everything that was read.

The grammar is `grammars/prototxt.lark`. Messages are built by callbacks while Lark's
LALR parser runs, which keeps its own stacks: nothing here recurses into the file.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from functools import cache
from os import PathLike, fspath
from typing import TYPE_CHECKING, cast

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.bounded import not_opened
from caffe2flax.frontend.grammars import grammar_path
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.sniff import HEAD, is_damaged_text
from caffe2flax.frontend.strings import EscapeError, unquote
from caffe2flax.frontend.syntax import Source, explain, nul
from caffe2flax.limits import current

if TYPE_CHECKING:
    from lark import Lark, Token, Transformer

MAX_DEPTH = 100
"""Messages within messages, protobuf's own limit: what reads the tree may recurse."""

_BINARY = (
    "this is a binary file, not a prototxt; a prototxt is the network as text, "
    "weights (.caffemodel, .caffemodel.h5) are given separately"
)

_Value = Scalar | Message

_source: ContextVar[Source] = ContextVar("source")


def read(path: str | PathLike[str]) -> Message:
    """Parse the file at `path`: UTF-8, with or without a byte order mark.

    Raises ConversionError when it cannot be read, is no text or has a syntax error.
    """
    return parse(read_text(path), fspath(path))


def read_text(path: str | PathLike[str]) -> str:
    """The text of the file at `path`, line ends as they are.

    Raises ConversionError when it cannot be read, is no text in UTF-8 or larger than
    the limit `prototxt_bytes`: of a file without an end no more than that is read.
    """
    file = fspath(path)
    limits = current()
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = b""
            if size <= limits.prototxt_bytes:
                data = stream.read(limits.prototxt_bytes + 1)
                size = len(data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = not_opened(file, reason)
        raise ConversionError(Problem(text, Span(file))) from error
    if size > limits.prototxt_bytes:
        text = limits.refusal("prototxt_bytes", f"a prototxt of {size} bytes")
        raise ConversionError(Problem(text, Span(file), "unsupported"))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        message = "the file is encoded in UTF-16; save it as UTF-8"
        raise ConversionError(Problem(message, Span(file)))
    binary = b"\0" in data and not is_damaged_text(data[:HEAD])
    if binary or data.startswith(b"\x89HDF"):
        raise ConversionError(Problem(_BINARY, Span(file)))
    try:
        text = (data if data.isascii() else _COMMENT.sub(_readable, data)).decode()
    except UnicodeDecodeError as error:
        raise ConversionError(_undecodable(error.object, error.start, file)) from error
    if "\0" in text:
        raise ConversionError(nul(text, file))
    return text


_COMMENT = re.compile(
    rb"""(#[^\n\r]*+)|"(?:\\.|[^"\\\n])*+"?|'(?:\\.|[^'\\\n])*+'?""", re.DOTALL
)
"""A comment, or a string, in which # begins none."""


def _readable(match: re.Match[bytes]) -> bytes:
    """As in Caffe a comment may be written in any encoding."""
    if match[1] is None or match[1].isascii():
        return match[0]
    return match[1].decode("utf-8", "replace").encode()


def parse(text: str, file: str = "<prototxt>") -> Message:
    """The message that `text` holds; `file` names it in errors.

    Empty text is an empty message. Raises ConversionError at the first syntax error,
    and for a text beyond the limits.
    """
    from lark import UnexpectedInput

    _check_size(text, file)
    source = Source(text.removeprefix("\ufeff"), file)
    token = _source.set(source)
    try:
        return cast(Message, _parser().parse(source.text))
    except UnexpectedInput as error:
        raise ConversionError(explain(error, source)) from None
    finally:
        _source.reset(token)


@cache
def _parser() -> Lark:
    from lark import Lark

    grammar = grammar_path("prototxt.lark").read_text("utf-8")
    builder = cast("Transformer[Token, Message]", _Builder())
    return Lark(grammar, parser="lalr", lexer="contextual", transformer=builder)


def _check_size(text: str, file: str) -> None:
    """Counts before anything is parsed: a field costs a hundred times its bytes. Marks
    inside strings and comments count, too. Raises ConversionError."""
    limits = current()
    size = len(text)
    if size > limits.prototxt_bytes:
        message = limits.refusal("prototxt_bytes", f"a prototxt of {size} bytes")
        raise ConversionError(Problem(message, Span(file), "unsupported"))
    marks = sum(map(text.count, ":{<,"))
    if marks > limits.fields:
        message = limits.refusal("fields", f"a prototxt of {marks} fields and values")
        raise ConversionError(Problem(message, Span(file), "unsupported"))


class _Builder:
    """What Lark calls: rules by their names, terminals by theirs."""

    def LBRACE(self, token: Token) -> Token:
        source = _source.get()
        source.depth += 1
        if source.depth > MAX_DEPTH:
            message = f"messages are nested too deeply: more than {MAX_DEPTH} levels"
            raise ConversionError(Problem(message, source.span(token)))
        source.open(token)
        return token

    def LSQB(self, token: Token) -> Token:
        _source.get().open(token)
        return token

    def RBRACE(self, token: Token) -> Token:
        source = _source.get()
        source.depth -= 1
        source.close(token)
        return token

    def RSQB(self, token: Token) -> Token:
        _source.get().close(token)
        return token

    LANGLE = LBRACE
    MORETHAN = RBRACE

    def start(self, fields: list[list[Field]]) -> Message:
        return Message(_flat(fields), Span(_source.get().file))

    def message(self, children: list[Token | list[Field]]) -> Message:
        brace, *fields = children
        span = _source.get().span(cast("Token", brace))
        return Message(_flat(cast(list[list[Field]], fields)), span)

    def field(self, children: tuple[Token, _Value | list[_Value]]) -> list[Field]:
        token, value = children
        span = _source.get().span(token)
        name = f"[{token[1:-1].strip()}]" if token.type == "EXTENSION" else str(token)
        if isinstance(value, list):
            return [Field(name, element, span) for element in value]
        return [Field(name, value, span)]

    def values(self, values: list[Scalar]) -> list[Scalar]:
        return values

    def messages(self, values: list[Message]) -> list[Message]:
        return values

    def number(self, tokens: list[Token]) -> Scalar:
        return Scalar("number", "".join(tokens), _source.get().span(tokens[0]))

    def word(self, tokens: list[Token]) -> Scalar:
        span = _source.get().span(tokens[0])
        if len(tokens) > 1 and tokens[1].lower() not in ("inf", "infinity", "nan"):
            message = f"expected a number after `-`, found `{tokens[1]}`"
            raise ConversionError(Problem(message, _source.get().span(tokens[1])))
        return Scalar("word", "".join(tokens), span)

    def string(self, tokens: list[Token]) -> Scalar:
        span = _source.get().span(tokens[0])
        try:
            return Scalar("string", unquote(tokens), span)
        except EscapeError as error:
            place = _source.get().span(tokens[error.literal], error.offset)
            raise ConversionError(Problem(str(error), place)) from None


def _flat(fields: list[list[Field]]) -> tuple[Field, ...]:
    return tuple([field for group in fields for field in group])


def _undecodable(data: bytes, position: int, file: str) -> Problem:
    start = data.rfind(b"\n", 0, position) + 1
    end = data.find(b"\n", position)
    line = data[start : len(data) if end < 0 else end].decode(
        "utf-8", "backslashreplace"
    )
    column = len(data[start:position].decode("utf-8")) + 1
    number = data.count(b"\n", 0, position) + 1
    if number == 1:
        column -= data.startswith(b"\xef\xbb\xbf")
        line = line.removeprefix("\ufeff")
    message = f"byte 0x{data[position]:02x} is not UTF-8; save the file as UTF-8"
    return Problem(message, Span(file, number, column, line.removesuffix("\r")))
