"""Tables for a terminal."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

NARROWEST = 80


class Column(NamedTuple):
    """A column. Numbers are aligned right and never wrapped; texts are wrapped where
    there is no room."""

    title: str
    align: Literal["left", "right"] = "left"


def width() -> int:
    """The width of the terminal in characters, 80 where there is none."""
    return max(NARROWEST, shutil.get_terminal_size((NARROWEST, 24)).columns)


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[object]], columns_wide: int = 0
) -> str:
    """The table as text, in lines of at most `columns_wide` characters, or of the width
    of the terminal for 0."""
    # Imported here: rich takes longer to load than most commands take.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        right = column.align == "right"
        result.add_column(
            Text(column.title), justify=column.align, no_wrap=right, overflow="fold"
        )
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))
    stream = io.StringIO()
    wide = columns_wide or width()
    Console(file=stream, width=wide, color_system=None, legacy_windows=False).print(
        result
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def size(count: int) -> str:
    """A number of bytes as text: 512 B, 4.1 kB, 233 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"


def short(count: int) -> str:
    """A number as a short text: "" for 0, 118M for 118 million."""
    if count < 1000:
        return str(count) if count else ""
    value = float(count)
    for unit in "kMGT":
        value /= 1000
        if value < 999.5 or unit == "T":
            break
    return f"{value:.3g}{unit}"


def by(shape: Sequence[int]) -> str:
    """A shape as text: 1x96x55x55, () for a blob without axes."""
    return "x".join(map(str, shape)) if shape else "()"
