"""Source text as ruff formats it."""

from __future__ import annotations

import subprocess
from functools import cache
from textwrap import wrap

WIDTH = 88
"""Columns of a line in ruff's default style."""


def paragraph(text: str, width: int) -> str:
    """`text` in lines of `width`; words are not cut, as an escape may be in one."""
    return "\n".join(wrap(text, width, break_long_words=False))


@cache
def _ruff() -> str:
    from ruff import find_ruff_bin

    return str(find_ruff_bin())


def format_source(source: str) -> str:
    """`source` in ruff's default style, whatever configuration the user's folder
    has."""
    done = subprocess.run(
        [_ruff(), "format", "--isolated", "--no-cache", "--quiet", "-"],
        input=source,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"ruff cannot format the generated module: {done.stderr}")
    return done.stdout
