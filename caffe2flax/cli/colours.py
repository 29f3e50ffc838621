"""Colours, on terminals that have them."""

from __future__ import annotations

import os
import re
from typing import TextIO

STYLES = (
    (re.compile(r"(?m)(?:^|(?<=: ))error:"), "bold red"),
    (re.compile(r"(?m)^(note|help):"), "bold cyan"),
    (re.compile(r"(?m)^(?:layers?|Caffe) {2,}.*"), "bold"),
    (re.compile(r"(?m)^(?:compiled )?ok:"), "bold green"),
    (re.compile(r"(?m)^(?:(?:compiled )?BREAKS:|culprit:)"), "bold red"),
    (re.compile(r"(?m)(?<=  )breaks(?=$|, \S+ alone$)"), "red"),
)
"""What stands out: problems, notes, the titles of tables, results, layers that
break."""


def show(text: str, stream: TextIO | None, *, data: bool = False) -> None:
    """Prints `text`, as it is but for colours; without them where it is `data`, where
    the stream is no terminal, and where NO_COLOR is set. FORCE_COLOR makes a terminal
    of any stream."""
    print(text if data else _painted(text, stream), file=stream)


def _painted(text: str, stream: TextIO | None) -> str:
    if os.environ.get("NO_COLOR") or "\t" in text:  # which rich would make spaces
        return text
    if stream is None or not (stream.isatty() or os.environ.get("FORCE_COLOR")):
        return text
    if not any(pattern.search(text) for pattern, _ in STYLES):
        return text
    # Imported here: rich takes longer to load than most conversions take.
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream)
    if console.color_system is None or console.legacy_windows:
        return text
    painted = Text(text)  # which knows no markup
    for pattern, style in STYLES:
        painted.highlight_regex(pattern, style)
    with console.capture() as capture:
        console.print(painted, soft_wrap=True, end="")
    return capture.get()
