"""InfogainLoss as Caffe had it before 1.0: its bottom has probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import ReadsFiles
from caffe2flax.ir.call import arguments
from caffe2flax.ir.layer import Arity, Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.layers._labels import (
    at_label,
    check_batch,
    check_legacy,
    check_one_each,
    row_major,
    some_labels,
)

THRESHOLD = 1e-20


@dataclass(frozen=True, slots=True)
class InfogainOfProbabilities(Layer, ReadsFiles):
    """Mean over n of the sum of -H[label, k] * log(p[n, k]) over k."""

    type: ClassVar[str] = "InfogainLoss"
    bottoms: ClassVar[Arity] = (2, 3)
    tops: ClassVar[Arity] = (0, 1)
    in_place = False
    metric = True
    default_loss = 1.0

    file: str = ""

    def files(self, *inputs: Shape) -> dict[str, Shape]:
        classes = prod(inputs[0][1:])
        return {self.file: (classes, classes)} if self.file else {}

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, labels, *infogain = inputs
        check_batch(*inputs)
        check_legacy(*inputs)
        check_one_each(x, labels)
        classes = prod(x[1:])
        if infogain and prod(infogain[0]) != classes**2:
            size = f"{classes} x {classes}"
            raise ConversionError(f"H must be {size} for these classes: {infogain[0]}")
        return ((),)

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        x, labels = inputs[:2]
        rows = (x[0], prod(x[1:]))
        return some_labels(noise, 1, rows, labels) if bottom == 1 else None

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts(tuple(map(row_major, inputs)), (Layout.caffe(0),))

    def call(self, at: Site) -> str:
        return f"infogain_of_probabilities({arguments(*at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, labels, infogain = inputs
        p = x.reshape(len(x), -1)
        log_p = np.log(np.maximum(p, THRESHOLD))
        by_row = log_p @ infogain.reshape((p.shape[1],) * 2).T
        return np.asarray(-at_label(by_row, labels, 1).mean())
