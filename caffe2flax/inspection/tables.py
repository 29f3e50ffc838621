"""Tables that read well in a terminal."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

NARROWEST = 80


class Column(NamedTuple):
    """Numbers are on the right and stay whole; texts break where there is no room."""

    title: str
    align: Literal["left", "right"] = "left"


def width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(NARROWEST, shutil.get_terminal_size((NARROWEST, 24)).columns)


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[object]], columns_wide: int = 0
) -> str:
    """The rows under their titles, in lines of at most `columns_wide` characters, the
    terminal's width where that is 0."""
    # Imported here: rich takes longer to load than most commands take.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        right = column.align == "right"
        found.add_column(
            Text(column.title), justify=column.align, no_wrap=right, overflow="fold"
        )
    for row in rows:
        found.add_row(*(Text(str(cell)) for cell in row))
    stream = io.StringIO()
    wide = columns_wide or width()
    Console(file=stream, width=wide, color_system=None, legacy_windows=False).print(
        found
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def size(count: int) -> str:
    """Bytes as people read them: 512 B, 4.1 kB, 233 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"


def short(count: int) -> str:
    """A number in few characters: 0 is left out, 118M is 118 million."""
    if count < 1000:
        return str(count) if count else ""
    value = float(count)
    for unit in "kMGT":
        value /= 1000
        if value < 999.5 or unit == "T":
            break
    return f"{value:.3g}{unit}"


def by(shape: Sequence[int]) -> str:
    """1x96x55x55; a blob without axes is ()."""
    return "x".join(map(str, shape)) if shape else "()"
