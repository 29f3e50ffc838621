"""Files of any kind, pipes and devices among them: read once, and no further than a
bound."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.limits import current

Path = str | os.PathLike[str]

URL = re.compile(r"[a-z][a-z0-9+.-]{1,15}:/", re.IGNORECASE)


def is_pipe(path: Path) -> bool:
    """Whether it is a pipe or a device, which can be read only once: /dev/stdin, the
    <(...) of a shell; False for what is not there."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def not_opened(path: str, reason: str) -> str:
    """The message for a path that cannot be read, for a `reason` of the system's."""
    if URL.match(path):
        return (
            "this is a URL, and nothing is fetched from the network: download the file "
            "and give its path"
        )
    if os.path.isdir(path):
        return "this is a folder, no regular file: give a file of it"
    return f"cannot be read: {reason}"


def read_bytes(path: Path, limit: str) -> bytes:
    """All of a file. Raises ConversionError where that is more than the bound `limit`,
    of which no more is read, and OSError."""
    with open(path, "rb") as stream:
        return _all(stream, path, limit)


def read_text(path: Path, limit: str) -> str:
    """The same as text in UTF-8, with or without a byte order mark. Raises
    UnicodeDecodeError, too."""
    return read_bytes(path, limit).decode("utf-8-sig")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file in which one can go back, a pipe as well. Raises ConversionError where a
    pipe gives more than the bound `piped_bytes`, and OSError."""
    with open(path, "rb") as stream:
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            yield stream
            return
        yield io.BytesIO(_all(stream, path, "piped_bytes"))


def _all(stream: IO[bytes], path: Path, limit: str) -> bytes:
    limits = current()
    bound: int = getattr(limits, limit)
    data = stream.read(bound + 1)
    if len(data) > bound:
        text = limits.refusal(limit, f"a file of more than {bound} bytes")
        raise ConversionError(Problem(text, Span(os.fspath(path)), "unsupported"))
    return data
