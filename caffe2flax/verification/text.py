"""A report as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from caffe2flax.errors import Span
from caffe2flax.inspection.tables import Column, by, table
from caffe2flax.verification.comparison import FOLDED, Culprit, Row, far
from caffe2flax.verification.report import Report

AGAINST = {
    "reference": "the numpy reference",
    "caffe": "Caffe",
    "opencv": "OpenCV",
}


def show_report(report: Report) -> str:
    """A table with a row for each layer and for each output of the compiled program,
    and the culprit, if any."""
    rows = table(
        (
            Column("layer"),
            Column("type"),
            Column("shape"),
            Column("largest", "right"),
            Column("mean", "right"),
            Column(""),
        ),
        (
            *(
                (
                    row.name,
                    row.type,
                    by(row.shape),
                    far(row.largest),
                    far(row.mean),
                    _mark(row),
                )
                for row in report.rows
            ),
            *(
                (
                    output.name,
                    "compiled",
                    by(output.shape),
                    far(output.largest),
                    far(output.mean),
                    "breaks" if output.broken else "",
                )
                for output in report.compiled
            ),
        ),
    )
    return "\n".join([rows, "", *closing(report)])


def closing(report: Report) -> Iterator[str]:
    """The lines after the table: culprit, notes and result."""
    oracle, count = AGAINST[report.against], len(report.rows)
    yield f"{report.name} against {oracle}, {count:,} layers"
    for note in report.notes:
        yield f"note: {note}"
    if report.culprit is not None:
        yield from _culprit_lines(report.culprit)
    worst = report.worst
    if worst is not None:
        word = "ok" if report.culprit is None else "BREAKS"
        yield (
            f"{word}: the largest is {far(worst.largest)} in {worst.name}, the "
            f"tolerance {report.tolerance:g}"
        )
    if report.compiled:
        off = max(report.compiled, key=lambda output: output.largest)
        word = "BREAKS" if any(x.broken for x in report.compiled) else "ok"
        yield f"compiled {word}: the largest is {far(off.largest)} in {off.name}"


def _culprit_lines(culprit: Culprit) -> Iterator[str]:
    yield f"culprit: {culprit}"
    for name, value in culprit.parameters.items():
        yield f"  {name}: {value}"
    if culprit.note and culprit.note not in str(culprit):
        yield f"  {culprit.note}"
    yield from _place(culprit.span)


def _place(span: Span) -> Iterator[str]:
    if span.line:
        yield f"  {span}"
        excerpt = span.excerpt()
        if excerpt:
            yield excerpt


def _mark(row: Row) -> str:
    if not row.broken:
        folded = "folded" if row.note.startswith(FOLDED) else row.note
        return folded if row.largest is None else ""
    return "breaks" if row.alone is None else f"breaks, {far(row.alone)} alone"
