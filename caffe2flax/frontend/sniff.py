"""What a file is that was given for a `.caffemodel` and is none."""

from __future__ import annotations

import os
import re

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.frontend.wire import Wire

HEAD = 512
"""Bytes from the start that are looked at; binary formats show themselves earlier."""

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

TEXT_CONTROLS = b"\t\n\r\f"

MAGIC = (
    (b"PK\x03\x04", "a zip archive (a PyTorch or Keras file?)"),
    (b"\x1f\x8b", "a gzip archive, to be unpacked first"),
    (b"BZh", "a bzip2 archive, to be unpacked first"),
    (b"\xfd7zXZ\x00", "an xz archive, to be unpacked first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, to be unpacked first"),
    (b"Rar!\x1a\x07", "a rar archive, to be unpacked first"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "an executable"),
)
TAR_MAGIC = 257, b"ustar"
PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
LFS = b"version https://git-lfs"
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head")


def is_binary(path: str | os.PathLike[str]) -> bool:
    """Whether a file is no text, as its start shows; False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError):  # a NUL in the path
        return False
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return False  # UTF-16, which the reader of texts knows to name
    return bool(_controls(head)) and not is_damaged_text(head)


def _controls(head: bytes) -> set[int]:
    """The control characters in it that texts do not have."""
    return {byte for byte in head if byte < 0x20 and byte not in TEXT_CONTROLS}


def is_damaged_text(head: bytes) -> bool:
    """Whether the start of a file is a prototxt with stray control characters: NUL,
    Ctrl-Z, or few others."""
    if not _FIRST_FIELD.match(head):
        return False
    stray = sum(head.count(bytes([byte])) for byte in _controls(head))
    return _controls(head) <= {0, 0x1A} or 100 * stray <= len(head)


_FIRST_FIELD = re.compile(rb"(\xef\xbb\xbf)?(\s|#[^\n]*\n)*[A-Za-z_]+\s*[:{<]")


def explained(wire: Wire, error: ConversionError) -> ConversionError:
    """`error`, opened by what the file looks like where that can be told."""
    other = looks_like(bytes(wire.data[:HEAD]))
    if other is None:
        return error
    message = f"this is {other}, no file of Caffe weights ({error.problems[0].message})"
    return ConversionError(Problem(message, Span(wire.path)))


def looks_like(head: bytes) -> str | None:
    """A name for the format that `head`, the start of a file, shows; None if unknown.

    Asked only once a file proved not to be what it should: none of these starts is
    impossible in a weights file.
    """
    for magic, name in MAGIC:
        if head.startswith(magic):
            return name
    at, magic = TAR_MAGIC
    if head[at : at + len(magic)] == magic:
        return "a tar archive, to be unpacked first"
    if head.startswith(PICKLE):
        return "a Python pickle"
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return "a safetensors file"
    if head.startswith(b"\x08"):
        return "an ONNX model or the state of a Caffe solver"
    return _text(head)


def _text(head: bytes) -> str | None:
    """What a text file is; None for binary data."""
    if _controls(head):
        return None
    try:
        # The last character may be cut in two.
        head[:-3].decode("utf-8")
    except UnicodeDecodeError:
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(LFS):
        return "a Git LFS pointer, whose file has to be fetched with `git lfs pull`"
    if start.startswith(MARKUP):
        return "a web page (the answer of a server that did not send the file?)"
    if start.startswith((b"{", b"[")):
        return "a JSON text"
    return "a text file (the prototxt?)"
