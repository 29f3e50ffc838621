"""Comparison of values, layer by layer: which layer breaks, and which is at fault.

If a blob is too far off, its layer is wrong, or its inputs are. So such layers are
computed once more in numpy, on the inputs that they had in the module.
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
"""A layer is right if its difference on its own inputs is below this part of the
tolerance: rounding in float32 is far below it."""

FLAT = 1e-6
"""The smallest number that a difference is relative to, for blobs of nearly zeros."""

BLOCK = 2**17
"""How many elements are compared at a time, in the cache."""

FOLDED = "one module with"
"""The start of the note on a layer that was folded into another."""

SHAPE = "its shape is"
"""The start of the note on a layer with a top of the wrong shape."""

MISSING = "not found in the module"
"""The note on a layer that an edited module does not call."""

FAILURES = (IndexError, ValueError, ZeroDivisionError)
"""The exceptions of a reference on values that its layer does not accept."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of the net.

    shape: that of its first top, in Caffe's axis order. largest, mean: the difference
    from the expected top, relative to the largest number of that, for the worst top;
    None where there is nothing to compare, with the reason in `note`. alone: the
    largest difference on the inputs that the layer had in the module, where it was
    computed. broken: whether `largest` is beyond the tolerance.
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
    """The layer at fault: its parameters and its position in the prototxt."""

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
    """A row, its layer, and the node that computes that layer."""

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
    """The result: a row for each layer, the one at fault, and notes."""

    entries: tuple[Entry, ...]
    culprit: Culprit | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerValues:
    """The module's values, and the expected ones."""

    task: Task
    ours: Values
    expected: Values
    tolerance: float

    def compare(self, *, strict: bool) -> Comparison:
        """Compares all layers. A layer that breaks is at fault if it is wrong on its
        own inputs too. If there is none, an earlier layer that does not break yet may
        be at fault. If every layer is right on its own inputs, the net magnifies
        rounding, which is no fault of the module; with `strict`, the first layer that
        breaks is at fault, as then the oracle does not agree with our reference.
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
        """Those of `chosen` that are wrong on their own inputs; sets `alone` in their
        rows."""
        for i in chosen:
            row = replace(entries[i].row, alone=self._alone(entries[i]))
            entries[i] = replace(entries[i], row=row)
        most = self.tolerance * ALONE
        errors = ((i, entries[i].row.alone) for i in chosen)
        return [i for i, alone in errors if alone is None or not alone <= most]

    def _origin(self, entries: Sequence[Entry], at: int) -> Entry:
        """The layer at fault: entry `at`, or an earlier one whose top `at` reads and
        the module does not compute."""
        broken = entries[at]
        wanted = {v for layer in broken.node.layers for v in layer.inputs}
        for entry in entries[:at]:
            if entry.row.note == MISSING and wanted & {*entry.layer.outputs}:
                return entry
        return broken

    def _entries(self) -> Iterator[Entry]:
        """A row for each layer of the net, in the order of the graph."""
        graph = self.task.graph
        for node in graph.nodes:
            if node.number < 0:
                continue  # a change of layout, which is no layer of Caffe
            for layer in node.layers:
                differences = self._differences(layer, self.expected)
                largest = max((far for far, _ in differences), default=None)
                row = Row(
                    layer.name,
                    layer.layer.type,
                    graph.shapes[layer.outputs[0]],
                    layer.span,
                    largest,
                    max((mean for _, mean in differences), default=None),
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
            shape = layer.layer.trim(self.ours[value]).shape
            if shape != self.expected[value].shape:
                return f"{SHAPE} {shape}, not {self.expected[value].shape}"
        if both:
            return ""
        computed = any(v in self.ours for v in layer.outputs)
        return "no counterpart" if computed else MISSING

    def _alone(self, entry: Entry) -> float | None:
        """The difference of the layer from the reference on the module's own values."""
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
        tops = {v: values[v] for v in entry.layer.outputs if v in values}
        differences = self._differences(entry.layer, tops)
        return max((far for far, _ in differences), default=None)


def far(value: float | None) -> str:
    """A difference as text."""
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}"


def difference(ours: Array, expected: Array) -> tuple[float, float]:
    """The largest and the mean difference, relative to the largest expected number;
    infinite where shapes differ, or where only one of two elements is NaN."""
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
    """The largest difference, the sum of all, and the largest finite expected number.

    A difference that is NaN counts as infinite, unless both are the same.
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
