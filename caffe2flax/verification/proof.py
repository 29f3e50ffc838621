"""The parts of a report's page that say what it proves: evidence, what was left out,
the photograph with its predictions, and the net, whose boxes lead to their layers."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

from caffe2flax.display.markup import text
from caffe2flax.drawing.areas import Located
from caffe2flax.inspection.tables import by, size
from caffe2flax.verification.beside import Beside
from caffe2flax.verification.comparison import far
from caffe2flax.verification.omissions import left_out
from caffe2flax.verification.report import Report

Links = Sequence[str]
"""For each row of a report, its lines in prototxt and source as links."""


def evidence(report: Report) -> Iterator[str]:
    """What the comparison was made of, and what it does not show."""
    facts = report.evidence
    if facts is not None:
        yield "<h2>What was compared</h2>"
        yield '<div class="scroll"><table class="proof">'
        for file in facts.files:
            what = f"{file.name}, {size(file.size)}"
            yield _fact(file.role, what, f"sha256 {file.sha256}")
        yield _fact("input", facts.recipe)
        for given in facts.inputs:
            what = f"{given.blob} {by(given.shape)}, float32"
            yield _fact("", what, f"sha256 {given.sha256}")
        yield _fact("tolerance", f"{report.tolerance:g}")
        versions = (f"{name} {version}" for name, version in facts.versions.items())
        yield _fact("versions", ", ".join(versions))
        yield _fact("device", facts.device)
        if facts.command:
            yield _fact("command", facts.command)
        yield "</table></div>"
    yield "<h2>What was not compared</h2><ul>"
    yield from (f"<li>{text(line)}</li>" for line in left_out(report))
    yield "</ul>"


def _fact(name: str, *values: str) -> str:
    shown = "<br>".join(f'<span class="c">{text(value)}</span>' for value in values)
    return f"<tr><td>{text(name)}<td>{shown}</tr>"


def photograph(beside: Beside | None) -> Iterator[str]:
    """The photograph, what the net says of it, and what the oracle says."""
    if beside is None:
        return
    yield f"<h2>The photograph: {text(beside.kind)} in {text(beside.blob)}</h2>"
    yield '<div class="beside">'
    yield from (_image(data, "png", "a picture") for data in beside.pictures)
    columns = list(dict.fromkeys(key for row in beside.rows for key in row))
    both = (("module", beside.rows), ("expected", beside.expected))
    for title, rows in both:
        if not rows:
            continue
        yield f"<div><b>{title}</b><table><tr>"
        yield from (f"<th>{text(column)}" for column in columns)
        for row in rows:
            cells = (f'<td class="n">{_cell(row.get(key, ""))}' for key in columns)
            yield f"<tr>{''.join(cells)}</tr>"
        yield "</table></div>"
    if not beside.rows:
        yield "<div>nothing found</div>"
    yield "</div>"


def _cell(value: object) -> str:
    return text(f"{value:.4g}" if isinstance(value, float) else value)


def _image(data: bytes, kind: str, name: str, attributes: str = "") -> str:
    """The picture as an image, so that no name in it becomes markup of the page."""
    encoded = b64encode(data).decode()
    source = f"data:image/{kind};base64,{encoded}"
    return f'<img alt="{text(name)}"{attributes} src="{source}">'


def net(drawing: Located | None, report: Report, links: Links) -> Iterator[str]:
    """The drawing; a box of it shows a card with the layers of the box."""
    if drawing is None:
        return
    rows = _rows(report)
    found: Mapping[int, list[int]] = {
        number: [rows[part.name].popleft() for part in box.parts if rows[part.name]]
        for number, box in enumerate(drawing.picture.boxes)
    }
    wide, high = drawing.width, drawing.height
    size = f' width="{wide:g}" height="{high:g}"'
    yield "<h2>Graph</h2><div>A box shows its lines and its difference.</div>"
    yield '<div class="scroll"><div class="net">'
    yield _image(drawing.svg, "svg+xml", "the net", size)
    box = f'viewBox="0 0 {wide:g} {high:g}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg"{size} {box}>'
    shown = [area for area in drawing.areas if found[area.box]]
    for area in shown:
        of = [report.rows[i] for i in found[area.box]]
        wrong = ' class="wrong"' if any(row.broken for row in of) else ""
        title = ", ".join(f"{row.name} {far(row.largest)}" for row in of)
        yield (
            f'<a href="#b{area.box}"{wrong}><title>{text(title)}</title>'
            f'<rect x="{area.x:g}" y="{area.y:g}" width="{area.width:g}" '
            f'height="{area.height:g}" rx="6"/></a>'
        )
    yield "</svg></div></div>"
    for area in shown:
        yield f'<div class="card" id="b{area.box}">'
        for i in found[area.box]:
            row = report.rows[i]
            note = f" ({text(row.note)})" if row.note else ""
            yield (
                f'<div><b class="c">{text(row.name)}</b> {text(row.type)}: difference '
                f'<a href="#r{i}">{far(row.largest)}</a>{note}{links[i]}</div>'
            )
        yield "</div>"


def _rows(report: Report) -> dict[str, deque[int]]:
    """The rows of a report by the names of their layers, of which some may be equal."""
    rows: dict[str, deque[int]] = defaultdict(deque)
    for i, row in enumerate(report.rows):
        rows[row.name].append(i)
    return rows
