"""A net converted in several ways, each against the float64 reference."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caffe2flax
from caffe2flax.conversion import Conversion, convert
from caffe2flax.runner import execute
from caffe2flax.verification import reference
from caffe2flax.verification.comparison import difference
from caffe2flax.verification.inputs import noise, noise_blobs
from caffe2flax.verification.observe import observe
from caffe2flax.verification.report import Report, verify_conversion
from tests.randomnets.net import Step, text_of
from tests.smallnets import save

TOLERANCE = 1e-4
WAYS = ("compiled", "flat", "tapped")
"""Beside the module as `convert` writes it, layer by layer: its outputs by
`caffe2flax.compile`; no blocks, and weights from a file; all blobs returned."""


@dataclass(frozen=True)
class Failure:
    """kind: what is the same for all nets that fail for one cause, more or less."""

    kind: str
    details: str


@dataclass(frozen=True)
class Outcome:
    """`magnified`: the net as a whole is off, each of its layers is not."""

    failure: Failure | None = None
    worst: float = 0.0
    magnified: bool = False


def check(steps: Sequence[Step], phase: str, ways: Iterable[str] = WAYS) -> Outcome:
    """What comes of a net; nothing is raised."""
    way = "plain"
    try:
        conversion = _converted(steps, phase)
        inputs = noise(conversion.graph, {})
        report = verify_conversion(conversion, inputs, observe, tolerance=TOLERANCE)
        if report.culprit is not None:
            return _off(way, report.culprit.type, str(report.culprit))
        worst = report.worst.largest if report.worst else None
        magnified = any(row.broken for row in report.rows)
        for way in () if magnified else ways:
            if way == "flat":
                found = _flat(steps, phase, conversion, report)
            else:
                found = _whole(steps, phase, conversion, report, tapped=way == "tapped")
            if found:
                blob, far = max(found.items(), key=lambda item: item[1])
                if not far <= TOLERANCE:
                    return _off(way, "", f"{blob} is off by {far:.1e}")
                worst = max(worst or 0.0, far)
        return Outcome(None, worst or 0.0, magnified)
    except caffe2flax.ConversionError as error:
        text = str(error.problems[0].message)
        kind = " ".join(word for word in text.split() if word.isalpha())
        return Outcome(Failure(f"{way}: refused: {kind}", str(error)))
    except Exception as error:
        return Outcome(Failure(f"{way}: {type(error).__name__}", repr(error)))


def _off(way: str, type_: str, details: str) -> Outcome:
    return Outcome(Failure(f"{way}: {type_} off", details))


def _converted(steps: Sequence[Step], phase: str, **options: Any) -> Conversion:
    """Without a weights file: random numbers, the same for the same layers."""
    options = {"phase": phase, "filled": True, "default_blobs": noise_blobs, **options}
    return convert(text_of(steps), None, **options)


def _flat(
    steps: Sequence[Step], phase: str, plain: Conversion, report: Report
) -> dict[str, float]:
    graph = plain.graph
    weights = {
        layer: [
            plain.blobs[slot.owner, slot.index].reshape(slot.shape) for slot in slots
        ]
        for layer, slots in graph.layer_weights.items()
        if slots
    }
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder, "net.caffemodel"), weights) if weights else None
        conversion = convert(text_of(steps), path, phase=phase, flat=True, filled=True)
        again = verify_conversion(
            conversion, report.inputs, observe, tolerance=TOLERANCE
        )
    if again.culprit is not None:
        return {str(again.culprit): float("inf")}
    return {}


def _whole(
    steps: Sequence[Step],
    phase: str,
    conversion: Conversion,
    report: Report,
    *,
    tapped: bool,
) -> dict[str, float]:
    """How far each output is off, or each blob, run by `compile` where that can be."""
    if tapped:
        conversion = _converted(steps, phase, taps="all")
    graph = conversion.graph
    inputs = noise(graph, report.inputs)  # a tap may need more of them
    values = reference.evaluate(graph, conversion.blobs, inputs)
    made = execute(conversion, inputs, ["all" if tapped else "outputs"])
    return {
        value.blob: difference(made[value.blob], values[value])[0]
        for value in (*graph.outputs, *graph.taps)
    }
