"""The output of commands, and how it is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from caffe2flax.cli.colours import show
from caffe2flax.errors import Problem, Span, printable


class Outcome(NamedTuple):
    """What a command prints.

    problems: those that did not stop it, which are printed on stderr. ok: whether it
    succeeded apart from these. data: the text is for programs, never in colour.
    """

    text: str
    problems: tuple[Problem, ...] = ()
    ok: bool = True
    data: bool = False


def lines(*parts: object) -> str:
    """The parts as lines, without control characters, which could change the
    terminal."""
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


def print_problems(*problems: Problem, advice: Sequence[str] = ()) -> None:
    """Prints problems on stderr, in the order of their positions, and advice."""
    ordered = sorted(problems, key=lambda p: (p.file or "", p.line or 0, p.column or 0))
    helpful = (printable(f"help: {line}") for line in advice)
    show("\n".join([*map(str, ordered), *helpful]), sys.stderr)


def problem_of(error: OSError) -> Problem:
    from caffe2flax.files.atomic import FilesExist

    if isinstance(error, FilesExist):
        return Problem(error.text("--force"))
    reason = error.strerror or str(error) or type(error).__name__
    span = None if error.filename is None else Span(os.fsdecode(error.filename))
    return Problem(reason, span)


def discard_output() -> None:
    """Redirects stdout to the null device, so that the interpreter's last flush cannot
    fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
