"""Tables, text and pictures as HTML for notebooks.

A notebook has its own style, light or dark: nothing here sets a colour, except behind
pictures, which are drawn for white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from caffe2flax.drawing.dot import render
from caffe2flax.drawing.picture import Picture
from caffe2flax.errors import ConversionError, printable

MOST_BOXES = 150
"""Boxes of a picture that is drawn unasked: a larger one takes seconds."""
MOST_ROWS = 500


def text(value: object) -> str:
    """`value` escaped as text of HTML."""
    return escape(printable(str(value)))


def card(title: str, facts: Iterable[tuple[str, object]], *parts: str) -> str:
    """A title, a table of facts, and further parts, which are HTML."""
    rows = "".join(
        f'<tr><th style="text-align:left">{text(name)}</th>'
        f'<td style="text-align:left">{text(value)}</td></tr>'
        for name, value in facts
    )
    return f"<div><b>{text(title)}</b><table>{rows}</table>{''.join(parts)}</div>"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The rows; those beyond MOST_ROWS are counted."""
    head = "".join(f"<th>{text(title)}</th>" for title in titles)
    body = "".join(
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = len(rows) - MOST_ROWS
    tail = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{tail}"


def folded(title: str, content: str) -> str:
    """HTML that a click on its title shows; long content scrolls."""
    box = f'<div style="max-height:30em;overflow:auto">{content}</div>'
    return f"<details><summary>{text(title)}</summary>{box}</details>"


def source(code: str) -> str:
    style = "text-align:left;font-family:monospace"
    return f'<pre style="{style}">{text(code)}</pre>'


def noted(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Notes as facts."""
    return [("note", note) for note in notes]


def drawn(picture: Picture) -> str:
    """The picture; nothing where Graphviz is not installed."""
    try:
        content = render(picture, "svg").decode()
    except ConversionError:
        return ""
    svg = content[content.index("<svg") :]
    return f'<div style="background:white">{svg}</div>'


def drawn_unasked(picture: Picture) -> str:
    """The picture of a net that is not too large to be drawn at once, folded."""
    shown = drawn(picture) if len(picture.boxes) <= MOST_BOXES else ""
    return folded("picture", shown) if shown else ""
