"""Limits for the size of files and nets.

A file beyond one of them is an error with the limit's name; `limited` changes limits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace


def _memory() -> int:
    """Bytes of this machine's memory; 16 GB where unknown."""
    if sys.platform == "win32" or not hasattr(os, "sysconf"):
        return 2**34
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 2**34


def _bound(default: int, about: str) -> int:
    bound: int = field(default=default, metadata={"about": about})
    return bound


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits; each is the largest allowed number."""

    prototxt_bytes: int = _bound(2**25, "bytes of a prototxt")
    fields: int = _bound(
        2**17, "fields and values of a net, as text or in a weights file"
    )
    layers: int = _bound(2**16, "layers of a net or of a weights file")
    activation_bytes: int = _bound(2**40, "bytes of all blobs of a net together")
    filled_bytes: int = _bound(2**31, "bytes of weights that no file holds")
    unpacked_bytes: int = _bound(2**28, "bytes that compressed arrays unpack to")
    piped_bytes: int = _bound(2**28, "bytes of arrays or an image out of a pipe")
    text_bytes: int = _bound(2**25, "bytes of labels, of a module or a plug-in")
    image_pixels: int = _bound(2**26, "pixels of an image")
    memory_bytes: int = field(
        default_factory=_memory,
        metadata={"about": "bytes that a run may need: this machine's memory"},
    )

    def refusal(self, name: str, what: str) -> str:
        """The message for `what`, which is beyond the limit `name`."""
        bound = getattr(self, name)
        return f"{what}, the limit is {bound}; --limit {name}=N sets another"


NAMES: Mapping[str, str] = {f.name: f.metadata["about"] for f in fields(Limits)}
"""Each limit and its description."""

_current: ContextVar[Limits | None] = ContextVar("limits", default=None)


def current() -> Limits:
    """The current limits."""
    return _current.get() or Limits()


@contextmanager
def limited(**bounds: int) -> Iterator[Limits]:
    """Sets limits by name for the code inside, in this thread.

    with caffe2flax.limited(prototxt_bytes=2**30):
        caffe2flax.convert("huge.prototxt")

    Raises TypeError for an unknown name.
    """
    token = _current.set(replace(current(), **bounds))
    try:
        yield current()
    finally:
        _current.reset(token)
