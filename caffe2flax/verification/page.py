"""A report as one HTML page without external files: differences, padding, source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from caffe2flax.codegen.sourcemap import Lines, SourceMap
from caffe2flax.display.markup import text
from caffe2flax.drawing.areas import Located
from caffe2flax.inspection.tables import by
from caffe2flax.inspection.text import pairs
from caffe2flax.inspection.where import end_of_message
from caffe2flax.ir.graph import Graph
from caffe2flax.passes.padding import paddings
from caffe2flax.verification.chart import chart
from caffe2flax.verification.comparison import Culprit, Row, far
from caffe2flax.verification.proof import evidence, net, photograph
from caffe2flax.verification.report import Output, Report
from caffe2flax.verification.style import STYLE
from caffe2flax.verification.text import AGAINST

LARGEST = 1_500_000
"""The longest prototxt that a page shows, in characters."""


def page(report: Report, drawing: Located | None = None, prototxt: str = "") -> str:
    """The whole page, with the net's `drawing` and the text of its prototxt, where they
    are given. Names from files are escaped, without control characters."""
    shown = prototxt if len(prototxt) <= LARGEST else ""
    lines = tuple(shown.split("\n"))
    conversion = report.conversion
    source = SourceMap.of(conversion.source, conversion.name)
    places = [
        source.where(conversion.positions[number])
        if number in conversion.positions
        else None
        for number in _numbers(conversion.graph)
    ]
    prototxts = [_prototxt(row, lines) for row in report.rows]
    sources = [", ".join(map(_link, w.all)) if w else "" for w in places]
    links = [
        "".join(f"; {name} {link}" for name, link in pair if link)
        for pair in (
            (("prototxt", a), ("source", b))
            for a, b in zip(prototxts, sources, strict=True)
        )
    ]
    title = f"{report.name} against {AGAINST[report.against]}"
    body = [
        f"<h1>{text(title)}</h1>",
        *_summary(report),
        *photograph(report.beside),
        "<h2>Largest difference of every layer</h2>",
        chart(report),
        *net(drawing, report, links),
        "<h2>Layers</h2>",
        _layers(report.rows, prototxts, sources),
        *_compiled(report.compiled),
        *_paddings(conversion.graph),
        *evidence(report),
        "<h2>Generated source</h2>",
        _listing(conversion.source.splitlines(), "L"),
        *(("<h2>Prototxt</h2>", _listing(lines, "P")) if shown else ()),
    ]
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{text(title)}</title><style>{STYLE}</style></head>",
            f'<body class="{"good" if report.ok else "bad"}">',
            *body,
            "</body></html>",
            "",
        ]
    )


def _numbers(graph: Graph) -> Iterator[int]:
    """For each row of a report, the number of the node that computes the layer."""
    for node in graph.nodes:
        if node.number >= 0:
            yield from (node.number for _ in node.layers)


def _summary(report: Report) -> Iterator[str]:
    worst = report.worst
    largest = far(worst.largest) if worst else "-"
    where = f" in <code>{text(worst.name)}</code>" if worst else ""
    word = "agrees" if report.ok else "breaks"
    subject = "module" if report.ok or report.culprit else "compiled program"
    parts = [
        f"<b>The {subject} {word}.</b> Largest difference {largest}{where}, tolerance "
        f"{report.tolerance:g}; differences are relative to the largest number in a "
        "blob.",
        f"{len(report.rows):,} layers, {report.conversion.parameter_count:,} "
        "parameters.",
        *(text(note) for note in report.notes),
    ]
    if report.culprit:
        parts.append(_culprit_lines(report.culprit))
    yield '<div class="result">'
    yield from (f"<div>{part}</div>" for part in parts)
    yield "</div>"


def _culprit_lines(culprit: Culprit) -> str:
    given = ", ".join(f"{key} {value}" for key, value in culprit.parameters.items())
    where = f" at {culprit.span}" if culprit.span.line else ""
    return f"<b>Culprit:</b> {text(culprit)}{text(where)}; {text(given)}"


def _prototxt(row: Row, lines: tuple[str, ...]) -> str:
    """The lines of a layer in the prototxt, as a link where the page has them."""
    line = row.span.line
    if not line:
        return ""
    here = row.span.text.rstrip("\r\n")
    if line > len(lines) or not here or lines[line - 1].rstrip("\r") != here:
        return str(line)
    last = end_of_message(lines, line, row.span.column)
    return f'<a href="#P{line}">{Lines(line, last)}</a>'


def _layers(
    rows: Sequence[Row], prototxts: Sequence[str], sources: Sequence[str]
) -> str:
    head = "<th>layer<th>type<th>shape"
    head += '<th class="n">largest<th class="n">mean<th>prototxt<th>source<th>'
    lines = [f'<div class="scroll"><table><tr>{head}</tr>']
    for i, row in enumerate(rows):
        alone = "" if row.alone is None else f"{far(row.alone)} alone"
        note = ", ".join(filter(None, (alone, row.note)))
        broken = ' class="broken"' if row.broken else ""
        lines.append(
            f'<tr id="r{i}"{broken}><td class="c">{text(row.name)}'
            f"<td>{text(row.type)}<td>{by(row.shape)}"
            f'<td class="n">{far(row.largest)}<td class="n">{far(row.mean)}'
            f"<td>{prototxts[i]}<td>{sources[i]}<td>{text(note)}</tr>"
        )
    return "\n".join([*lines, "</table></div>"])


def _compiled(outputs: Iterable[Output]) -> Iterator[str]:
    if not outputs:
        return
    yield "<h2>The compiled program</h2>"
    yield '<div class="scroll"><table><tr><th>output<th>shape<th class="n">largest'
    yield '<th class="n">mean</tr>'
    for output in outputs:
        broken = ' class="broken"' if output.broken else ""
        yield (
            f'<tr{broken}><td class="c">{text(output.name)}<td>{by(output.shape)}'
            f'<td class="n">{far(output.largest)}<td class="n">{far(output.mean)}</tr>'
        )
    yield "</table></div>"


def _link(lines: Lines) -> str:
    return f'<a href="#L{lines.first}">{lines}</a>'


def _paddings(graph: Graph) -> Iterator[str]:
    windowed = list(paddings(graph))
    if not windowed:
        return
    yield "<h2>Padding</h2>"
    yield '<div class="scroll"><table><tr><th>layer<th>Caffe<th>SAME<th>emitted<th>why'
    for node, padding in windowed:
        cells: Mapping[str, object] = {
            "Caffe": pairs(padding.caffe),
            "SAME": pairs(padding.same),
            "emitted": padding.emitted
            if isinstance(padding.emitted, str)
            else pairs(padding.emitted),
            "why": padding.reason,
        }
        shown = "".join(f"<td>{text(cell)}" for cell in cells.values())
        yield f'<tr><td class="c">{text(node.name)}{shown}</tr>'
    yield "</table></div>"


def _listing(lines: Iterable[str], mark: str) -> str:
    """Lines with numbers, the targets of links."""
    shown = (
        f'<span id="{mark}{i}"><a href="#{mark}{i}">{i}</a>{text(line)}</span>'
        for i, line in enumerate(lines, 1)
    )
    return f"<pre>{''.join(shown)}</pre>"
