"""The differences of all layers as a chart."""

from __future__ import annotations

from math import isfinite, log10

from caffe2flax.display.markup import text
from caffe2flax.verification.comparison import far
from caffe2flax.verification.report import Report

LOWEST, HIGHEST = -9, 1
"""Decades of the chart; values beyond them are drawn at its edge."""
STEP, HEIGHT, LEFT, TOP = 7, 240, 52, 12
NARROWEST = 240
"""The least width, for the words in the chart."""


def chart(report: Report) -> str:
    """A dot for each layer on a logarithmic scale, and a line at the tolerance."""
    wide = max(NARROWEST, LEFT + STEP * len(report.rows) + 20)
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
            f"<title>{text(row.name)}: {far(row.largest)}</title></circle></a>"
        )
    y = TOP + HEIGHT + 20
    parts.append(f'<text x="{LEFT}" y="{y}">layers, first to last</text></svg></div>')
    return "".join(parts)


def _height(value: float) -> float:
    """The distance of a difference from the top of the chart."""
    decade = log10(value) if value > 0 and isfinite(value) else LOWEST
    decade = HIGHEST if not isfinite(value) else min(max(decade, LOWEST), HIGHEST)
    return round(TOP + HEIGHT * (HIGHEST - decade) / (HIGHEST - LOWEST), 1)
