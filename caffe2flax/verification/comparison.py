"""Values held against values, layer by layer: which one breaks, and which is at fault.

A blob that is too far off says that its layer is wrong, or that what came in was. So
each suspect runs once more in numpy, on what the module itself fed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import Span
from caffe2flax.inspection.parameters import parameters
from caffe2flax.ir.graph import Node, Value
from caffe2flax.ir.layout import Shape
from caffe2flax.verification.oracles import Task
from caffe2flax.verification.reference import evaluate_node

Array = NDArray[Any]
Values = Mapping[Value, Array]

ALONE = 0.1
"""A layer is right if alone it stays within this share of the tolerance: rounding in
float32 is far below it."""

FLAT = 1e-6
"""What a difference is relative to where a blob is nearly zero throughout."""

BLOCK = 2**17
"""Numbers that are compared at a time, in the cache."""

FOLDED = "one module with"
"""How the note on a layer starts that has no values of its own."""

SHAPE = "its shape is"
"""How the note on a layer starts whose top has a wrong one."""

MISSING = "not found in the module"
"""The note on a layer whose call an edited module lacks."""

FAILURES = (IndexError, ValueError, ZeroDivisionError)
"""What a reference raises on values that its layer has no meaning for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of the net.

    shape: its first top's, in Caffe's axis order. largest, mean: the difference from
    the expected top relative to the largest number in that, of the worst top; None
    where there is nothing to compare, and `note` says why. alone: the largest one on
    what the module itself fed the layer, where that was asked. broken: beyond the
    tolerance.
    """

    name: str
    type: str
    shape: Shape
    span: Span
    largest: float | None = None
    mean: float | None = None
    alone: float | None = None
    broken: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Culprit:
    """The layer at fault: its parameters and its place in the prototxt."""

    name: str
    type: str
    span: Span
    largest: float
    alone: float | None
    parameters: Mapping[str, str]
    note: str = ""

    def __str__(self) -> str:
        if self.note == MISSING:
            return f"{self.name} ({self.type}) is {MISSING}"
        if self.note.startswith(SHAPE):
            return f"{self.name} ({self.type}): {self.note}"
        alone = "" if self.alone is None else f", {self.alone:.1e} on its own inputs"
        return f"{self.name} ({self.type}) is off by {self.largest:.1e}{alone}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row, the layer that it is about, and the node that does its work."""

    row: Row
    layer: Node
    node: Node

    def as_culprit(self) -> Culprit:
        row = self.row
        largest = inf if row.largest is None else row.largest
        given = parameters(self.layer.layer)
        return Culprit(
            row.name, row.type, row.span, largest, row.alone, given, row.note
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is to be said: a row for each layer, the one at fault, and notes."""

    entries: tuple[Entry, ...]
    culprit: Culprit | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerValues:
    """The module's values, and those expected of it."""

    task: Task
    ours: Values
    expected: Values
    tolerance: float

    def compare(self, *, strict: bool) -> Comparison:
        """A layer that breaks is at fault if it is wrong on what the module fed it,
        too. If none is, one before it that did not break yet may be. If every layer is
        right alone, the net magnifies rounding, which is no fault of the module; but
        with `strict` the first that breaks is to blame, for then the oracle does not
        agree with our reference.
        """
        entries = [*self._entries()]
        broken = [i for i, entry in enumerate(entries) if entry.row.broken]
        if not broken:
            return Comparison(tuple(entries))
        at_fault = self._wrong(entries, broken)
        if not at_fault:
            earlier = range(broken[0])
            compared = [i for i in earlier if entries[i].row.largest is not None]
            at_fault = self._wrong(entries, compared)
        if at_fault or strict:
            culprit = self._origin(entries, (at_fault or broken)[0]).as_culprit()
            return Comparison(tuple(entries), culprit)
        text = (
            f"from {entries[broken[0]].row.name} on the net magnifies rounding: every "
            "layer is right on what the module feeds it"
        )
        return Comparison(tuple(entries), None, (text,))

    def _wrong(self, entries: list[Entry], chosen: Sequence[int]) -> list[int]:
        """Those of `chosen` that are wrong alone; their rows then say how far."""
        for i in chosen:
            row = replace(entries[i].row, alone=self._alone(entries[i]))
            entries[i] = replace(entries[i], row=row)
        most = self.tolerance * ALONE
        found = ((i, entries[i].row.alone) for i in chosen)
        return [i for i, alone in found if alone is None or not alone <= most]

    def _origin(self, entries: Sequence[Entry], at: int) -> Entry:
        """The layer at fault: that of `at`, or one before it whose top `at` wants and
        the module does not have."""
        found = entries[at]
        wanted = {v for layer in found.node.layers for v in layer.inputs}
        for entry in entries[:at]:
            if entry.row.note == MISSING and wanted & {*entry.layer.outputs}:
                return entry
        return found

    def _entries(self) -> Iterator[Entry]:
        """A row for each layer of the net, in the order of the graph."""
        graph = self.task.graph
        for node in graph.nodes:
            if node.number < 0:
                continue  # a change of layout, which Caffe has none of
            for layer in node.layers:
                found = self._differences(layer, self.expected)
                largest = max((far for far, _ in found), default=None)
                row = Row(
                    layer.name,
                    layer.layer.type,
                    graph.shapes[layer.outputs[0]],
                    layer.span,
                    largest,
                    max((mean for _, mean in found), default=None),
                    broken=largest is not None and not largest <= self.tolerance,
                    note=self._note(layer, node),
                )
                yield Entry(row, layer, node)

    def _differences(self, layer: Node, expected: Values) -> list[tuple[float, float]]:
        shared = [v for v in layer.outputs if v in self.ours and v in expected]
        trimmed = {v: layer.layer.trim(self.ours[v]) for v in shared}
        return [difference(trimmed[v], expected[v]) for v in shared]

    def _note(self, layer: Node, node: Node) -> str:
        if len(node.layers) > 1:
            others = ", ".join(x.name for x in node.layers if x is not layer)
            return f"{FOLDED} {others}"
        both = [v for v in layer.outputs if v in self.ours and v in self.expected]
        for value in both:
            made = layer.layer.trim(self.ours[value]).shape
            if made != self.expected[value].shape:
                return f"{SHAPE} {made}, not {self.expected[value].shape}"
        if both:
            return ""
        there = any(v in self.ours for v in layer.outputs)
        return "no counterpart" if there else MISSING

    def _alone(self, entry: Entry) -> float | None:
        """How far the layer is from the reference on the module's own values."""
        inputs = self.task.inputs
        values: dict[Value, Array] = {}
        for layer in entry.node.layers:
            for value in layer.inputs:
                if value not in values:
                    array = self.ours.get(value, inputs.get(value.blob))
                    if array is None:
                        return None
                    values[value] = np.asarray(array, np.float64)
            with suppress(*FAILURES):
                values |= evaluate_node(layer, self.task.blobs, values)
            if layer is entry.layer:
                break
        made = {v: values[v] for v in entry.layer.outputs if v in values}
        found = self._differences(entry.layer, made)
        return max((far for far, _ in found), default=None)


def difference(ours: Array, expected: Array) -> tuple[float, float]:
    """The largest and the mean difference, relative to the largest number expected;
    infinite where shapes differ or only one of the two is a number."""
    if ours.shape != expected.shape:
        return inf, inf
    if not expected.size:
        return 0.0, 0.0
    if ours.size <= BLOCK:
        parts = [_apart(ours, expected)]
    else:
        pairs = ours.reshape(-1), expected.reshape(-1)
        blocks = (slice(i, i + BLOCK) for i in range(0, ours.size, BLOCK))
        parts = [_apart(pairs[0][block], pairs[1][block]) for block in blocks]
    far, total, largest = zip(*parts, strict=True)
    scale = max(FLAT, *largest)
    return max(far) / scale, sum(total) / ours.size / scale


def _apart(ours: Array, expected: Array) -> tuple[float, float, float]:
    """The largest difference, the sum of all, and the largest finite number expected.

    A difference that is no number is infinite, unless both are the same.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(np.subtract(ours, expected, dtype=np.float64))
        total = float(far.sum())
    sizes = np.abs(expected)
    if isfinite(total):
        return float(far.max()), total, float(sizes.max())
    same = (ours == expected) | (np.isnan(ours) & np.isnan(expected))
    far = np.where(same, 0.0, np.where(np.isnan(far), inf, far))
    largest = np.max(sizes, where=np.isfinite(sizes), initial=0.0)
    return float(far.max()), float(far.sum()), float(largest)
