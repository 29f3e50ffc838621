"""A picture laid out by Graphviz: in columns, like the text of a newspaper."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from caffe2flax.drawing.columns import columns_of
from caffe2flax.drawing.picture import Arrow, Box, Picture
from caffe2flax.errors import ConversionError, optional, printable

if TYPE_CHECKING:
    from graphviz import Digraph

FORMATS = ("svg", "png", "pdf", "dot")

COLOURS = {
    "data": "#ececec",
    "output": "#ececec",
    "convolution": "#f9c9b6",
    "dense": "#d9c7ea",
    "pooling": "#bcd9f2",
    "activation": "#cfe8c4",
    "normalization": "#fbe7a8",
    "combination": "#f5c6dc",
    "shape": "#dfe3e8",
    "loss": "#c9e6e2",
    "other": "#ffffff",
}
LONGEST = 48
"""The longest name that a box shows, in characters."""
FONT = "Helvetica,Arial,sans-serif"
INSTALL = (
    "the program 'dot' of Graphviz is not installed: 'apt-get install graphviz', "
    "'brew install graphviz', 'winget install graphviz' or 'conda install graphviz' "
    "brings it; -o NET.dot needs no program"
)
PIXELS_PER_INCH = 144
MANY_ARROWS = 800
"""The number of arrows from which the layout is not optimized fully: that can take
hours."""


def render(picture: Picture, format_: str) -> bytes:
    """The picture as a file's content: svg, png, pdf or dot.

    Raises ConversionError where Graphviz is missing or fails.
    """
    with optional("a picture", "the package graphviz", "draw"):
        import graphviz

    source = to_dot(picture, PIXELS_PER_INCH if format_ == "png" else None)
    if format_ == "dot":
        return source.encode()
    try:
        drawn: bytes = graphviz.pipe("dot", format_, source.encode(), quiet=True)
    except graphviz.ExecutableNotFound:
        raise ConversionError(INSTALL) from None
    except graphviz.CalledProcessError as error:
        message = (error.stderr or b"").decode(errors="replace").strip()
        raise ConversionError(f"Graphviz cannot draw the net: {message}") from None
    return drawn


def to_dot(picture: Picture, pixels_per_inch: int | None = None) -> str:
    """The picture in Graphviz's language."""
    from graphviz import Digraph, escape

    graph = Digraph(
        "net",
        graph_attr={
            "label": escape(_clipped(picture.name)),
            "labelloc": "t",
            "fontname": FONT,
            "fontsize": "20",
            "newrank": "true",
            "nodesep": "0.15",
            "ranksep": "0.12",
            "pad": "0.2",
        },
        node_attr={
            "shape": "box",
            "style": "filled,rounded",
            "color": "#7a7a7a",
            "fontname": FONT,
            "fontsize": "11",
            "margin": "0.06,0.03",
            "height": "0.3",
        },
        edge_attr={
            "color": "#555555",
            "fontname": FONT,
            "fontsize": "9",
            "fontcolor": "#333333",
            "arrowsize": "0.6",
        },
    )
    if len(picture.arrows) > MANY_ARROWS:
        graph.attr(nslimit="1", nslimit1="1", mclimit="0.3", splines="line")
    if pixels_per_inch:
        graph.attr(dpi=str(pixels_per_inch))
    columns = columns_of(picture)
    routes = _routes(picture, columns)
    for number, column in enumerate(columns):
        name = f"cluster_column{number}" if len(columns) > 1 else None
        with graph.subgraph(name=name) as part:
            if name:
                part.attr(style="invis", label="")
            _boxes(part, picture, column, number)
            _shapes(part, (route for route in routes if route.column == number))
            if number:
                _connector(part, f"start{number}", number)
            if number + 1 < len(columns):
                _connector(part, f"end{number + 1}", number + 1)
    for route in routes:
        graph.edge(route.tail, route.name, arrowhead="none")
        for head in route.heads:
            graph.edge(route.name, head)
    _align(graph, columns)
    return str(graph.source)


def _boxes(graph: Digraph, picture: Picture, numbers: range, column: int) -> None:
    """Adds the boxes of a column, those of a block in a frame."""
    from graphviz import escape

    blocks: dict[str, list[int]] = {}
    for number in numbers:
        block = picture.boxes[number].block
        if block:
            blocks.setdefault(block, []).append(number)
        else:
            _box(graph, number, picture.boxes[number])
    for block, members in blocks.items():
        with graph.subgraph(name=_frame(block, column)) as frame:
            frame.attr(
                label=escape(_clipped(block)),
                labeljust="l",
                fontname=FONT,
                fontsize="11",
                style="filled,rounded",
                color="#b0b0b0",
                fillcolor="#f7f7f7",
                margin="6",
            )
            for number in members:
                _box(frame, number, picture.boxes[number])


def _frame(block: str, column: int) -> str:
    """The name of a block's frame, without characters that Graphviz interprets."""
    return f"cluster_block{column}_{block.encode(errors='replace').hex()}"


def _box(graph: Digraph, number: int, box: Box) -> None:
    from graphviz import escape

    colour = COLOURS[box.kind]
    if box.end:
        shown = escape(_clipped(box.name))
        graph.node(f"n{number}", shown, shape="oval", fillcolor=colour)
        return
    first, *changed = box.parts
    rows = [f"<tr><td><b>{_text(box.name)}</b></td></tr>", _small(first.type)]
    if first.caption:
        rows.append(_small(first.caption))
    for part in changed:
        text = " ".join(filter(None, (part.type, part.caption)))
        rows.append(_small(text, f' bgcolor="{COLOURS[part.kind]}"'))
    table = '<table border="0" cellborder="0" cellspacing="0" cellpadding="1">'
    label = f"<{table}{''.join(rows)}</table>>"
    graph.node(f"n{number}", label, fillcolor=colour)


def _connector(graph: Digraph, name: str, number: int) -> None:
    graph.node(
        name,
        str(number),
        shape="circle",
        width="0.28",
        fixedsize="true",
        style="filled",
        fillcolor="#4a4a4a",
        fontcolor="white",
    )


def _small(text: str, attributes: str = "") -> str:
    shown = f'<font point-size="9">{_text(text)}</font>'
    return f"<tr><td{attributes}>{shown}</td></tr>"


@dataclass(slots=True)
class _Route:
    """The arrows of a blob, from `tail` through the node `name`, which shows its shape,
    to its readers."""

    name: str
    label: str
    tail: str
    column: int
    block: str
    heads: list[str]


def _routes(picture: Picture, columns: Sequence[range]) -> list[_Route]:
    """One route for each blob and column.

    A blob that is read in a later column ends at a number, and starts from the same
    number there.
    """
    place = {n: c for c, numbers in enumerate(columns) for n in numbers}
    routes: dict[tuple[int, int, str, str], _Route] = {}

    def route(arrow: Arrow, column: int, tail: str, block: str) -> _Route:
        key = (column, arrow.tail, arrow.blob, arrow.shape)
        if key not in routes:
            name = f"shape{len(routes)}"
            label = " ".join(filter(None, (_clipped(arrow.blob), arrow.shape)))
            routes[key] = _Route(name, label, tail, column, block, [])
        existing = routes[key]
        existing.block = block if existing.block == block else ""
        return existing

    for arrow in picture.arrows:
        tail, head = f"n{arrow.tail}", f"n{arrow.head}"
        block = picture.boxes[arrow.tail].block
        inner = block if picture.boxes[arrow.head].block == block else ""
        first, last = place[arrow.tail], place[arrow.head]
        if first == last:
            route(arrow, first, tail, inner).heads.append(head)
            continue
        leaving = route(arrow, first, tail, "")
        if f"end{last}" not in leaving.heads:
            leaving.heads.append(f"end{last}")
        route(arrow, last, f"start{last}", "").heads.append(head)
    return list(routes.values())


def _shapes(graph: Digraph, routes: Iterable[_Route]) -> None:
    """Adds the nodes that show shapes, in the frames of their blocks."""
    from graphviz import escape

    for route in routes:
        name = _frame(route.block, route.column) if route.block else None
        with graph.subgraph(name=name) as frame:
            frame.node(
                route.name,
                escape(route.label),
                shape="plaintext",
                style="",
                fontsize="9",
                height="0.12",
                margin="0.02,0",
            )


def _align(graph: Digraph, columns: Sequence[range]) -> None:
    """Puts the columns side by side, in their order."""
    starts = [f"start{number}" for number in range(1, len(columns))]
    if not starts:
        return
    with graph.subgraph() as row:
        row.attr(rank="same")
        for left, right in pairwise((f"n{columns[0][0]}", *starts)):
            row.edge(left, right, style="invis")


def _clipped(text: str) -> str:
    shown = printable(text).replace("\n", "\\n")
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _text(text: str) -> str:
    """`text` for an HTML-like label, in which Graphviz still interprets \\N and allows
    no empty text."""
    return html.escape(_clipped(text)).replace("\\", "\\\\") or "&#160;"
