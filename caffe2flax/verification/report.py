"""A generated module compared with what Caffe computes: the written module, with a
probe around each layer, and an oracle on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion
from caffe2flax.display import markup
from caffe2flax.drawing.picture import picture
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.ir.layout import Shape
from caffe2flax.verification.beside import Beside, read_beside
from caffe2flax.verification.comparison import (
    FAILURES,
    Culprit,
    LayerValues,
    Row,
    difference,
    far,
)
from caffe2flax.verification.evidence import Evidence
from caffe2flax.verification.inputs import Photo
from caffe2flax.verification.observe import Observed
from caffe2flax.verification.oracles import ORACLES, Oracle, Task
from caffe2flax.weights.safetensors import Progress

Array = NDArray[Any]
Values = Mapping[Value, Array]
Watch = Callable[[Conversion, Mapping[str, Array]], Observed]


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the program that `caffe2flax.compile` returns, compared as in
    `Row`."""

    name: str
    shape: Shape
    largest: float
    mean: float
    broken: bool


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The result of a comparison. rows: the net's layers in order. culprit: the layer
    at fault, None where there is none. conversion: the module that was run. inputs,
    outputs: its inputs and the expected outputs, in Caffe's names and axis order.
    beside: what the net says of the photograph that it ran on, if it was one. evidence:
    what the comparison was made of. compiled: the outputs of the compiled program, if
    it was compared. stop: why an edited module failed halfway, where it did."""

    name: str
    against: str
    tolerance: float
    rows: tuple[Row, ...]
    culprit: Culprit | None
    conversion: Conversion = field(repr=False)
    inputs: Mapping[str, Array] = field(repr=False)
    outputs: Mapping[str, Array] = field(repr=False)
    notes: tuple[str, ...] = ()
    compiled: tuple[Output, ...] = ()
    stop: Problem | None = None
    beside: Beside | None = None
    evidence: Evidence | None = None

    def __repr__(self) -> str:
        return f"Report({self.name} against {self.against}: {self._result})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the result, the differences, and the picture."""
        facts = (
            ("result", self._result),
            *((("culprit", self.culprit),) if self.culprit else ()),
            *markup.noted(self.notes),
        )
        titles = ("layer", "type", "shape", "largest", "mean", "")
        rows = [
            (
                row.name,
                row.type,
                "x".join(map(str, row.shape)),
                far(row.largest),
                far(row.mean),
                "breaks" if row.broken else "",
            )
            for row in self.rows
        ]
        return markup.card(
            f"{self.name} against {self.against}",
            facts,
            markup.folded(f"{len(rows):,} layers", markup.table(titles, rows)),
            markup.drawn_unasked(picture(self.conversion.graph)),
        )

    @property
    def _result(self) -> str:
        worst, word = self.worst, "ok" if self.ok else "BREAKS"
        counts = f"{word}, {len(self.rows):,} layers"
        if worst is None:
            return counts
        most = f"largest difference {far(worst.largest)} in {worst.name}"
        return f"{counts}, {most}, tolerance {self.tolerance:g}"

    @property
    def ok(self) -> bool:
        return self.culprit is None and not any(x.broken for x in self.compiled)

    @property
    def worst(self) -> Row | None:
        """The row with the largest difference."""
        compared = [row for row in self.rows if row.largest is not None]
        return max(compared, key=lambda row: row.largest or 0.0, default=None)

    def to_dict(self) -> dict[str, object]:
        """For JSON, where an infinite difference is the string "inf"."""
        culprit: dict[str, object] | None = None
        if self.culprit is not None:
            culprit = {**_record(self.culprit), "parameters": self.culprit.parameters}
        return {
            "name": self.name,
            "against": self.against,
            "tolerance": self.tolerance,
            "ok": self.ok,
            "culprit": culprit,
            "layers": [
                {
                    **_record(row),
                    "shape": list(row.shape),
                    "mean": _number(row.mean),
                    "broken": row.broken,
                }
                for row in self.rows
            ],
            "compiled": [
                {
                    "name": output.name,
                    "shape": list(output.shape),
                    "largest": _number(output.largest),
                    "mean": _number(output.mean),
                    "broken": output.broken,
                }
                for output in self.compiled
            ],
            "notes": list(self.notes),
            "evidence": self.evidence.to_dict() if self.evidence else None,
        }


def _record(compared: Row | Culprit) -> dict[str, object]:
    return {
        "name": compared.name,
        "type": compared.type,
        "file": compared.span.file,
        "line": compared.span.line or None,
        "largest": _number(compared.largest),
        "alone": _number(compared.alone),
        "note": compared.note,
    }


def _number(value: float | None) -> float | str | None:
    return value if value is None or isfinite(value) else str(value)


def verify_conversion(
    conversion: Conversion,
    inputs: Mapping[str, Array],
    watch: Watch,
    *,
    files: tuple[str, Sequence[str]] = ("", ()),
    against: str = "reference",
    tolerance: float = 1e-4,
    level: int = 0,
    stages: Sequence[str] = (),
    notes: Sequence[str] = (),
    photo: Photo | None = None,
    progress: Progress | None = None,
) -> Report:
    """Runs the module of `conversion` and the oracle `against` on `inputs`, arrays in
    Caffe's names and axis order. `watch` runs the module; `files` are the prototxt and
    the weights that were converted. photo: the photograph among the inputs, whose
    prediction is shown. Raises ConversionError for inputs that do not fit,
    where the oracle is not installed, and where the module fails although its values
    until then are right."""
    check_request(conversion.graph, against, tolerance)
    graph = conversion.graph
    used = {value.blob for value in graph.arguments}
    given = {
        name: np.asarray(array, np.float32)
        for name, array in inputs.items()
        if name in used
    }
    task = Task(graph, conversion.blobs, given, *files, level, stages, progress)
    if against != "reference":  # first, as it may not be installed
        expected = _expected(ORACLES[against], task)
    ours = watch(conversion, inputs)
    if against == "reference":
        # Not at the same time: numpy and XLA both use all cores.
        expected = _expected(ORACLES[against], task)
    result = LayerValues(task, ours.values, expected, tolerance).compare(
        strict=against != "reference"
    )
    last = {v.blob: graph.blobs[v.blob] for v in graph.outputs}
    stop = () if ours.stop is None else (f"{ours.stop.span}: {ours.stop.message}",)
    report = Report(
        conversion.name,
        against,
        tolerance,
        tuple(entry.row for entry in result.entries),
        result.culprit,
        conversion,
        given,
        {blob: expected[v] for blob, v in last.items() if v in expected},
        (*notes, *result.notes, *stop),
        stop=ours.stop,
        beside=read_beside(graph, photo, ours.values, expected) if photo else None,
    )
    if ours.stop is not None and report.ok:
        raise ConversionError(ours.stop)
    return report


def with_compiled(report: Report, compiled: Mapping[str, Array]) -> Report:
    """`report` with `compiled`, the outputs of the compiled program on the same inputs,
    compared. Where the net magnifies rounding, they are not at fault either."""
    magnified = report.culprit is None and any(row.broken for row in report.rows)
    outputs = []
    for name, expected in report.outputs.items():
        largest, mean = difference(compiled[name], expected)
        broken = not largest <= report.tolerance and not magnified
        outputs.append(Output(name, expected.shape, largest, mean, broken))
    return replace(report, compiled=tuple(outputs))


def check_request(graph: Graph, against: str, tolerance: float) -> None:
    """Raises ConversionError for an unknown oracle, a tolerance that is not above 0,
    and a net that draws random numbers."""
    if against not in ORACLES:
        known = ", ".join(ORACLES)
        raise ConversionError(f"cannot verify against {against!r}, only {known}")
    if not tolerance > 0:
        raise ConversionError(f"the tolerance must be above 0, not {tolerance}")
    if graph.random:
        names = ", ".join(graph.random[:5])
        text = f"nothing to compare with: in {graph.phase} these layers are random: "
        raise ConversionError(text + names)


def _expected(oracle: Oracle, task: Task) -> Values:
    try:
        return oracle(task)
    except FAILURES as error:
        text = f"the net cannot be computed on these inputs ({error}); give others"
        raise ConversionError(text) from error
