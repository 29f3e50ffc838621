"""How much a file may ask for: the bounds that are choices, in one place.

A file beyond one of them is refused with the bound's name; `limited` sets others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace


def _memory() -> int:
    """Bytes of this machine's memory; 16 GB where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**34


def _bound(default: int, about: str) -> int:
    bound: int = field(default=default, metadata={"about": about})
    return bound


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound, with what it bounds; each is the largest number that passes."""

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
        """The message for `what`, which is beyond the bound `name`."""
        bound = getattr(self, name)
        return f"{what}, the limit is {bound}; --limit {name}=N sets another"


NAMES: Mapping[str, str] = {f.name: f.metadata["about"] for f in fields(Limits)}
"""Each bound and what it bounds."""

_current: ContextVar[Limits | None] = ContextVar("limits", default=None)


def current() -> Limits:
    """The bounds that hold here."""
    return _current.get() or Limits()


@contextmanager
def limited(**bounds: int) -> Iterator[Limits]:
    """Sets bounds by name for what is called inside, in this thread.

    with caffe2flax.limited(prototxt_bytes=2**30):
        caffe2flax.convert("huge.prototxt")

    Raises TypeError for a name that is none.
    """
    token = _current.set(replace(current(), **bounds))
    try:
        yield current()
    finally:
        _current.reset(token)
