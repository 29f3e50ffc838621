"""Problems with their positions, and the one exception for bad input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher, get_close_matches
from itertools import islice
from typing import Literal

EXCERPT_WIDTH = 100
"""How many columns of a source line an error shows, as lines may be very long."""

MAX_HINTS = 100
"""How many problems get a hint, as the search for one takes time."""

MISSPELT = 0.85
"""How similar, from 0 to 1, a misspelt name is at least to the one that is meant."""

Kind = Literal["broken", "ambiguous", "unsupported"]
"""What is to be done about a file that is refused.

broken: Caffe refuses it, too. ambiguous: it may mean several things, and the caller has
to choose. unsupported: Caffe, or a fork of it, takes it, and there is no conversion.
"""


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
    kind: Kind | None = None
    """None where the problem is none of an input file."""

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
            "kind": self.kind,
        }

    def at(self, span: Span | None) -> Problem:
        """The same problem, at `span` unless it has a position already."""
        return self if self.span else replace(self, span=span)

    def of(self, kind: Kind) -> Problem:
        """The same problem, of this kind unless it has a kind already."""
        return self if self.kind else replace(self, kind=kind)

    def __str__(self) -> str:
        message = printable(self.message) + (f" [{self.kind}]" if self.kind else "")
        if self.span is None:
            return f"error: {message}"
        excerpt = self.span.excerpt()
        tail = f"\n{excerpt}" if excerpt else ""
        return f"{printable(str(self.span))}: error: {message}{tail}"


class ConversionError(Exception):
    """Bad input: all problems, each with its position where it has one.

    advice: what may be done about all of them together, a line each.
    """

    def __init__(
        self,
        problems: str | Problem | Iterable[Problem],
        advice: Iterable[str] = (),
    ):
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        self.advice = tuple(advice)
        lines = (f"help: {printable(line)}" for line in self.advice)
        super().__init__("\n".join([*map(str, self.problems), *lines]))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems, self.advice))

    def at(self, span: Span | None) -> ConversionError:
        """The same error with `span` for the problems that have no position yet."""
        problems = (problem.at(span) for problem in self.problems)
        return ConversionError(problems, self.advice)


def unsupported(message: str) -> ConversionError:
    """An error of a layer that Caffe or a fork computes and that is not converted."""
    return ConversionError(Problem(message, kind="unsupported"))


def ambiguous(message: str) -> ConversionError:
    """An error of what the file leaves open: `message` says between what to choose."""
    return ConversionError(Problem(message, kind="ambiguous"))


@contextmanager
def broken_by_default() -> Iterator[None]:
    """For the code inside that reads input files: a problem with a position is one of
    the file, which is broken unless the code that found it says otherwise."""
    try:
        yield
    except ConversionError as error:
        problems = (p.of("broken") if p.span else p for p in error.problems)
        raise ConversionError(problems, error.advice) from error.__cause__


class UnknownShape(ConversionError):
    """An input whose shape only its data has, so that the caller has to give one.

    known: its extents, 0 for unknown ones. more: further axes may follow.
    """

    def __init__(self, message: str, known: tuple[int, ...], *, more: bool = False):
        super().__init__(Problem(message, kind="ambiguous"))
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


def unknown(word: str, hint: str) -> Kind:
    """The kind of the problem that a name is unknown, with a `hint` from `closest`.

    A misspelt name is refused by Caffe, too. One that looks like no known name, or like
    a relative of one (Convolution and Convolution2, pad_h and pad_l), may be a fork's.
    """
    known = hint.removeprefix("; did you mean ").removesuffix("?")
    if not known:
        return "unsupported"
    a, b = word.casefold(), known.casefold()
    if a == b:
        return "broken"
    longer = abs(len(a) - len(b)) > 1 and (a in b or b in a)
    numbered = [c for c in a if c.isdigit()] != [c for c in b if c.isdigit()]
    variant = len(a) == len(b) and a[:-1] == b[:-1]
    alike = SequenceMatcher(None, a, b).ratio() >= MISSPELT
    return "broken" if alike and not (longer or numbered or variant) else "unsupported"


def is_misspelt(word: str, candidates: Iterable[str]) -> bool:
    """Whether a candidate is so similar to `word` that it must have been meant:
    `crop_sise` for `crop_size`, but not `source2` for `source`."""
    return unknown(word, closest(word, candidates)) == "broken"
