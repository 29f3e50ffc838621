"""A report as one HTML page without external files: differences, padding, source."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from math import isfinite, log10

from caffe2flax.codegen.sourcemap import Lines, SourceMap, Where
from caffe2flax.errors import printable
from caffe2flax.inspection.tables import by
from caffe2flax.inspection.text import pairs
from caffe2flax.ir.graph import Graph
from caffe2flax.passes.padding import paddings
from caffe2flax.verification.comparison import Culprit, Row
from caffe2flax.verification.report import Output, Report
from caffe2flax.verification.text import AGAINST

STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#1c2230;background:#fff}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.result{border-left:6px solid #2c8a4b;padding:.4rem 1rem;margin:1rem 0;
background:#f1f8f3}
.bad .result{border-color:#c0392b;background:#fdf2f0}
table{border-collapse:collapse;font-size:13.5px}
th{text-align:left;border-bottom:2px solid #ccd2dc;position:sticky;top:0;
background:#fff}
td,th{padding:.22rem .9rem .22rem 0;vertical-align:top}
td{border-bottom:1px solid #eceff4}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.broken td{background:#fdf2f0;color:#a32a1d}
code,pre,.c{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px}
a{color:#1d5fa8;text-decoration:none}a:hover{text-decoration:underline}
.scroll{overflow-x:auto}
pre{background:#f7f8fa;padding:.8rem 0;line-height:1.45;overflow-x:auto}
pre span{display:block;padding-right:1rem}
pre span:target,tr:target td{background:#fff3bf}
pre a{display:inline-block;width:3.2rem;text-align:right;margin-right:1rem;
color:#9aa3b2;user-select:none}
img{max-width:100%}
svg text{font:11px system-ui,sans-serif;fill:#5b6475}
@media(prefers-color-scheme:dark){
:root{color-scheme:dark}
body,th{color:#d5dae4;background:#14171d}th{border-color:#434b5a}
td{border-color:#272d38}.result{background:#15251b}
.bad .result,.broken td{background:#321c19}.broken td{color:#f2a99f}
a{color:#82b4ef}pre{background:#1b1f27}
pre span:target,tr:target td{background:#4b4216}
svg text{fill:#98a1b1}svg line:not([stroke-dasharray]){stroke:#2c333f}
img{background:#fff}
}
"""

LOWEST, HIGHEST = -9, 1
"""Decades of the chart; values beyond them are drawn at its edge."""
STEP, HEIGHT, LEFT, TOP = 7, 240, 52, 12


def page(report: Report, drawing: bytes = b"") -> str:
    """The whole page; `drawing` is the net as SVG. Names from files are escaped,
    without control characters."""
    conversion = report.conversion
    source = SourceMap.of(conversion.source, conversion.name)
    places = [
        source.where(conversion.positions[number])
        if number in conversion.positions
        else None
        for number in _numbers(conversion.graph)
    ]
    title = f"{report.name} against {AGAINST[report.against]}"
    body = [
        f"<h1>{text(title)}</h1>",
        *_summary(report),
        "<h2>Largest difference of every layer</h2>",
        _chart(report),
        "<h2>Layers</h2>",
        _layers(report.rows, places),
        *_compiled(report.compiled),
        *_paddings(conversion.graph),
        *_graph(drawing),
        "<h2>Generated source</h2>",
        _source(conversion.source),
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


def text(value: object) -> str:
    """`value` escaped as text of HTML, or as the value of a quoted attribute."""
    return escape(printable(str(value)))


def _numbers(graph: Graph) -> Iterator[int]:
    """For each row of a report, the number of the node that computes the layer."""
    for node in graph.nodes:
        if node.number >= 0:
            yield from (node.number for _ in node.layers)


def _summary(report: Report) -> Iterator[str]:
    worst = report.worst
    largest = _far(worst.largest) if worst else "-"
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


def _chart(report: Report) -> str:
    """A dot for each layer on a logarithmic scale, and a line at the tolerance."""
    wide = LEFT + STEP * max(1, len(report.rows)) + 20
    parts = [
        '<div class="scroll">'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" '
        f'height="{HEIGHT + 40}" role="img" aria-label="differences of all layers">'
    ]
    for decade in range(LOWEST, HIGHEST + 1, 2):
        y = _height(10.0**decade)
        parts.append(
            f'<line x1="{LEFT}" x2="{wide}" y1="{y}" y2="{y}" stroke="#e3e7ee"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">1e{decade}</text>'
        )
    y = _height(report.tolerance)
    parts.append(
        f'<line x1="{LEFT}" x2="{wide}" y1="{y}" y2="{y}" stroke="#c0392b" '
        'stroke-dasharray="5 4"/>'
        f'<text x="{LEFT + 4}" y="{y - 4}">tolerance {report.tolerance:g}</text>'
    )
    for i, row in enumerate(report.rows):
        if row.largest is None:
            continue
        colour = "#c0392b" if row.broken else "#2c8a4b"
        parts.append(
            f'<a href="#r{i}"><circle cx="{LEFT + STEP * i + 6}" '
            f'cy="{_height(row.largest)}" r="3" fill="{colour}">'
            f"<title>{text(row.name)}: {_far(row.largest)}</title></circle></a>"
        )
    y = TOP + HEIGHT + 20
    parts.append(f'<text x="{LEFT}" y="{y}">layers, first to last</text></svg></div>')
    return "".join(parts)


def _height(value: float) -> float:
    """The distance of a difference from the top of the chart."""
    decade = log10(value) if value > 0 and isfinite(value) else LOWEST
    decade = HIGHEST if not isfinite(value) else min(max(decade, LOWEST), HIGHEST)
    return round(TOP + HEIGHT * (HIGHEST - decade) / (HIGHEST - LOWEST), 1)


def _layers(rows: Iterable[Row], places: Iterable[Where | None]) -> str:
    head = "<th>layer<th>type<th>shape"
    head += '<th class="n">largest<th class="n">mean<th>prototxt<th>source<th>'
    lines = [f'<div class="scroll"><table><tr>{head}</tr>']
    for i, (row, where) in enumerate(zip(rows, places, strict=True)):
        links = ", ".join(map(_link, where.all)) if where else ""
        alone = "" if row.alone is None else f"{_far(row.alone)} alone"
        note = ", ".join(filter(None, (alone, row.note)))
        broken = ' class="broken"' if row.broken else ""
        lines.append(
            f'<tr id="r{i}"{broken}><td class="c">{text(row.name)}'
            f"<td>{text(row.type)}<td>{by(row.shape)}"
            f'<td class="n">{_far(row.largest)}<td class="n">{_far(row.mean)}'
            f"<td>{row.span.line or ''}<td>{links}<td>{text(note)}</tr>"
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
        far, mean = _far(output.largest), _far(output.mean)
        yield (
            f'<tr{broken}><td class="c">{text(output.name)}<td>{by(output.shape)}'
            f'<td class="n">{far}<td class="n">{mean}</tr>'
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


def _graph(drawing: bytes) -> Iterator[str]:
    """The drawing as an image, so that no name of the net becomes markup of the
    page."""
    if drawing:
        data = b64encode(drawing).decode()
        yield "<h2>Graph</h2>"
        yield f'<img alt="the net" src="data:image/svg+xml;base64,{data}">'


def _source(source: str) -> str:
    lines = (
        f'<span id="L{i}"><a href="#L{i}">{i}</a>{text(line)}</span>'
        for i, line in enumerate(source.splitlines(), 1)
    )
    return f"<pre>{''.join(lines)}</pre>"


def _far(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}"
