"""A net as it is given: the path of a file, or the text itself."""

from __future__ import annotations

import os
from pathlib import Path

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.frontend import prototxt
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.schema import read_architecture
from caffe2flax.frontend.sniff import is_binary

PathOrText = str | os.PathLike[str]


def read_net(source: PathOrText) -> tuple[Message, tuple[str, ...]]:
    """The net of a prototxt, or the one inside a weights file, and notes on that."""
    if is_text(source):
        return prototxt.parse(str(source)), ()
    if not is_binary(source):
        return prototxt.read(source), ()
    found = read_architecture(source)
    entries = (entry.value for entry in found.net.fields)
    if not any(isinstance(e, Message) and e.has("top") for e in entries):
        text = "the file holds weights but no net; give its prototxt, too"
        raise ConversionError(Problem(text, found.net.span))
    return found.net, tuple(f"passed over: {what}" for what in found.skipped)


def is_text(source: PathOrText) -> bool:
    """A path holds no brace and no line break; a prototxt of a net always does."""
    return isinstance(source, str) and any(c in source for c in "{\n<")


def origin(source: PathOrText) -> str:
    return "a prototxt" if is_text(source) else Path(source).name


def carries_weights(source: PathOrText) -> bool:
    """Whether the net comes out of a weights file."""
    return not is_text(source) and is_binary(source)
