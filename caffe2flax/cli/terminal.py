"""What commands say, and how it is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import NamedTuple

from caffe2flax.errors import Problem, Span, printable


class Outcome(NamedTuple):
    """What a command prints, the problems that it passed over, which go to stderr, and
    whether all is well besides."""

    text: str
    problems: tuple[Problem, ...] = ()
    ok: bool = True


def lines(*parts: object) -> str:
    """Without control characters: names from a file cannot steer a terminal."""
    return printable("\n".join(map(str, parts)))


def noted(notes: Iterable[str]) -> list[str]:
    return [f"note: {note}" for note in notes]


def can_print(text: str) -> bool:
    """Whether standard output has these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def print_problems(*problems: Problem) -> None:
    """On stderr, in the order of their places."""
    ordered = sorted(problems, key=lambda p: (p.file or "", p.line or 0, p.column or 0))
    print(*ordered, sep="\n", file=sys.stderr)


def problem_of(error: OSError) -> Problem:
    from caffe2flax.files.atomic import FilesExist

    if isinstance(error, FilesExist):
        return Problem(error.text("--force"))
    reason = error.strerror or str(error) or type(error).__name__
    span = None if error.filename is None else Span(os.fsdecode(error.filename))
    return Problem(reason, span)


def discard_output() -> None:
    """Points stdout at nothing, so that the interpreter's own last flush cannot
    fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
