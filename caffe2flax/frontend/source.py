"""A net as it is given: the path of a file, or the text itself."""

from __future__ import annotations

import os
from pathlib import Path

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.bounded import is_pipe
from caffe2flax.frontend import prototxt
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.schema import read_architecture
from caffe2flax.frontend.sniff import WANTED, explained_text, is_binary

PathOrText = str | os.PathLike[str]
NetSource = PathOrText | Message
"""A net that was parsed already may be given, too: the one inside a solver."""


def read_net(source: NetSource) -> tuple[Message, tuple[str, ...]]:
    """The net of a prototxt, or the one inside a weights file, and notes on that."""
    if isinstance(source, Message):
        return source, ()
    if isinstance(source, str) and is_text(source):
        name = source.file if isinstance(source, PipedText) else "<prototxt>"
        return prototxt.parse(str(source), name), ()
    if not is_binary(source):
        return _read_text(source), ()
    found = read_architecture(source)
    entries = (entry.value for entry in found.net.fields)
    if not any(isinstance(e, Message) and e.has("top") for e in entries):
        text = "the file holds weights but no net; give its prototxt, too, before it"
        raise ConversionError(Problem(text, found.net.span))
    return found.net, tuple(f"passed over: {what}" for what in found.skipped)


def _read_text(source: PathOrText) -> Message:
    try:
        net = prototxt.read(source)
    except ConversionError as error:
        text = explained_text(source, error)
        if text is None:
            raise
        raise ConversionError(Problem(text, Span(os.fspath(source)))) from None
    if not net.fields and not os.path.getsize(source):
        text = f"the file is empty; {WANTED['net']}"
        raise ConversionError(Problem(text, net.span))
    return net


class PipedText(str):
    """A prototxt that came out of a pipe, `file`, and cannot be read again."""

    __slots__ = ("file",)
    file: str


def at_hand(source: PathOrText) -> PathOrText:
    """`source` as it can be read any number of times: the text of a pipe. Raises
    ConversionError as `prototxt.read_text` does."""
    if is_text(source) or not is_pipe(source):
        return source
    text = PipedText(prototxt.read_text(source))
    text.file = os.fspath(source)
    return text


def is_text(source: PathOrText) -> bool:
    """A path holds no brace and no line break; a prototxt of a net always does."""
    if isinstance(source, PipedText):
        return True
    return isinstance(source, str) and any(c in source for c in "{\n<")


def text_of(source: PathOrText) -> str | None:
    """The text of a prototxt; None for a net in a binary file. Raises ConversionError
    as `prototxt.read_text` does."""
    if is_text(source):
        return str(source)
    return None if is_binary(source) else prototxt.read_text(source)


def origin(source: NetSource) -> str:
    if isinstance(source, Message):
        return "a solver"
    return "a prototxt" if is_text(source) else Path(source).name


def carries_weights(source: NetSource) -> bool:
    """Whether the net comes out of a weights file."""
    if isinstance(source, Message) or is_text(source):
        return False
    return is_binary(source)
