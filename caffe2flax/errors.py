"""Problems with their positions, and the one exception for bad input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice

EXCERPT_WIDTH = 100
"""How many columns of a source line an error shows, as lines may be very long."""

MAX_HINTS = 100
"""How many problems get a hint, as the search for one takes time."""


@dataclass(frozen=True, slots=True)
class Span:
    """A position in an input file; lines and columns count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0
    text: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"

    def excerpt(self) -> str:
        """The source line with a caret below the column; empty where it is unknown."""
        if not (self.line and self.column and self.text.strip()):
            return ""
        start = max(0, self.column - 1 - EXCERPT_WIDTH // 2)
        shown = self.text[start : start + EXCERPT_WIDTH].rstrip("\r\n")
        before = self.text[start : self.column - 1]
        offset = len(printable(before.expandtabs(4)))
        return f"    {printable(shown.expandtabs(4))}\n    {' ' * offset}^"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of the input, and its position."""

    message: str
    span: Span | None = None

    @property
    def file(self) -> str | None:
        return self.span.file if self.span else None

    @property
    def line(self) -> int | None:
        return (self.span.line or None) if self.span else None

    @property
    def column(self) -> int | None:
        return (self.span.column or None) if self.span else None

    def to_dict(self) -> dict[str, str | int | None]:
        """For JSON."""
        return {
            "message": self.message,
            "file": self.file,
            "line": self.line,
            "column": self.column,
        }

    def at(self, span: Span | None) -> Problem:
        """The same problem, at `span` unless it has a position already."""
        return self if self.span else replace(self, span=span)

    def __str__(self) -> str:
        message = printable(self.message)
        if self.span is None:
            return f"error: {message}"
        excerpt = self.span.excerpt()
        tail = f"\n{excerpt}" if excerpt else ""
        return f"{printable(str(self.span))}: error: {message}{tail}"


class ConversionError(Exception):
    """Bad input: all problems, each with its position where it has one."""

    def __init__(self, problems: str | Problem | Iterable[Problem]):
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))

    def at(self, span: Span | None) -> ConversionError:
        """The same error with `span` for the problems that have no position yet."""
        return ConversionError(problem.at(span) for problem in self.problems)


class UnknownShape(ConversionError):
    """An input whose shape only its data has.

    known: its extents, 0 for unknown ones. more: further axes may follow.
    """

    def __init__(self, message: str, known: tuple[int, ...], *, more: bool = False):
        super().__init__(message)
        self.known = known
        self.more = more

    def __reduce__(self) -> tuple[object, ...]:
        return (ConversionError, (self.problems,))


@contextmanager
def optional(what: str, package: str, extra: str, file: str = "") -> Iterator[None]:
    """For the import inside of a package that only `what` needs.

    Raises ConversionError where it is not installed, with the extra that brings it.
    """
    try:
        yield
    except ImportError:
        message = f"{what} needs {package}: pip install 'caffe2flax[{extra}]'"
        span = Span(file) if file else None
        raise ConversionError(Problem(message, span)) from None


def printable(text: str) -> str:
    """`text` without control characters, which could change the terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in text
    )


def closest(word: str, candidates: Iterable[str], problems: Sized = ()) -> str:
    """`; did you mean X?` for the candidate most similar to `word`, or "".

    Letter case is ignored. Long words and candidates beyond the first thousand are not
    compared, and none once there are many `problems`, so that a file with many wrong
    names does not take a time that grows with the square of its length.
    """
    if len(word) > 64 or len(problems) >= MAX_HINTS:
        return ""
    known = {c.casefold(): c for c in islice(candidates, 1000) if c != word}
    matches = get_close_matches(word.casefold(), known, n=1)
    return f"; did you mean {known[matches[0]]}?" if matches else ""


def is_misspelt(word: str, candidates: Iterable[str]) -> bool:
    """Whether a candidate is so similar to `word` that it must have been meant:
    `crop_sise` for `crop_size`, but not `source2` for `source`."""
    letters = word.casefold().rstrip("0123456789_")
    known = [c for c in islice(candidates, 1000) if c.casefold() != letters]
    return len(word) <= 64 and bool(get_close_matches(letters, known, cutoff=0.88))
