"""What a file is that was given for a net, weights or a mean, and is none."""

from __future__ import annotations

import os
import re

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.bounded import is_pipe
from caffe2flax.frontend.wire import Wire

HEAD = 512
"""Bytes from the start that are looked at; binary formats show themselves earlier."""

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5_NAMES = 2**16
"""Bytes from the start of an HDF5 file that hold the names of its first groups."""

TEXT_CONTROLS = b"\t\n\v\f\r"

WANTED = {
    "net": "give the net as a .prototxt, the text of the architecture",
    "weights": "give the .caffemodel or .caffemodel.h5 that Caffe wrote",
    "state": "give the .solverstate or .solverstate.h5 that Caffe wrote",
    "mean": "give the .binaryproto that Caffe wrote, an .npy, or numbers",
}

MAGIC = (
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive, to be unpacked first"),
    (b"BZh", "a bzip2 archive, to be unpacked first"),
    (b"\xfd7zXZ\x00", "an xz archive, to be unpacked first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, to be unpacked first"),
    (b"Rar!\x1a\x07", "a rar archive, to be unpacked first"),
    (b"\x93NUMPY", "a numpy array (.npy)"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "an executable"),
)
ZIP_MAGIC = b"PK\x03\x04"
ZIPPED = (
    (re.compile(rb"\.npy"), "a numpy archive (.npz)"),
    (re.compile(rb"/data\.pkl|/version|/byteorder"), "a PyTorch file (.pt, .pth)"),
    (re.compile(rb"metadata\.json|config\.json"), "a Keras file (.keras)"),
)
"""What a zip archive is by the name of its first entry."""
TAR_MAGIC = 257, b"ustar"
PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
LFS = b"version https://git-lfs"
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head")
PROTOTXT = re.compile(rb"(#.*\s*)*(name|layers?|input|input_dim|input_shape)\s*[:{]")


def is_binary(path: str | os.PathLike[str]) -> bool:
    """Whether a file is no text, as its start shows; False where it cannot be read, or
    only once."""
    if is_pipe(path):
        return False
    try:
        head = _head(path)
    except (OSError, ValueError):
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


def _head(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def explained(
    wire: Wire, error: ConversionError, wanted: str = "weights", *, mean: bool = False
) -> ConversionError:
    """`error`, opened by what the file looks like where that can be told; `mean`:
    whether all of it is one blob."""
    other = "a mean file (.binaryproto)" if mean else looks_like(wire.data[:HEAD])
    if other is None and wanted == "mean" and b"\xa2\x06" in wire.data[:HEAD]:
        other = "a file of weights (.caffemodel)"
    if other is None:
        return error
    return ConversionError(Problem(_named(other, wanted, error), Span(wire.path)))


def explained_text(path: str | os.PathLike[str], error: ConversionError) -> str | None:
    """The message for a net that is no prototxt, where its start shows what it is."""
    try:
        other = None if is_pipe(path) else looks_like(_head(path))
    except (OSError, ValueError):
        return None
    if other is None or other.startswith("a text file"):
        return None
    return _named(other, "net", error)


def _named(other: str, wanted: str, error: ConversionError) -> str:
    if wanted == "weights" and other == A_PROTOTXT:
        other += ": the net comes first, its weights behind it"
    return f"this is {other}; {WANTED[wanted]} ({error.problems[0].message})"


def is_keras(head: bytes) -> bool:
    """Whether an HDF5 file, of which this is the start, was written by Keras."""
    return b"keras_version" in head or b"model_weights" in head


def looks_like(head: bytes) -> str | None:
    """A name for the format that `head`, the start of a file, shows; None if unknown.

    Asked only once a file proved not to be what it should: none of these starts is
    impossible in a weights file.
    """
    if head.startswith(ZIP_MAGIC):
        named = (name for pattern, name in ZIPPED if pattern.search(head))
        return next(named, "a zip archive, to be unpacked first")
    for magic, name in MAGIC:
        if head.startswith(magic):
            return name
    at, magic = TAR_MAGIC
    if head[at : at + len(magic)] == magic:
        return "a tar archive, to be unpacked first"
    if head.startswith(PICKLE):
        return "a Python pickle (.pkl, an old .pth)"
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return "a safetensors file"
    if head.startswith(b"\x08"):
        solver = b".caffemodel" in head or b".solverstate" in head
        return (
            "the state of a Caffe solver (.solverstate)" if solver else "an ONNX model"
        )
    return _text(head)


A_PROTOTXT = "a text file, a prototxt"


def _text(head: bytes) -> str | None:
    """What a text file is; None for binary data."""
    if _controls(head):
        return None
    try:
        # The last character may be cut in two.
        head[:-3].decode("utf-8")
    except UnicodeDecodeError:
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.lower().startswith(LFS):
        return "a Git LFS pointer, whose file has to be fetched with `git lfs pull`"
    if start.lower().startswith(MARKUP):
        return "a web page (the answer of a server that did not send the file?)"
    if start.startswith((b"{", b"[")):
        return "a JSON text"
    return A_PROTOTXT if PROTOTXT.match(start) else "a text file"
