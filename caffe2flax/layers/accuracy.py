"""Accuracy: how often the scores are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._labels import at_label, check_labels, row_major, some_labels


@layer("Accuracy", "accuracy_param")
@dataclass(frozen=True, slots=True)
class Accuracy(Layer):
    """Share of labels with one of the top_k scores along `axis`; a tie is a miss."""

    bottoms = 2
    tops = (1, 2)
    in_place = False
    metric = True

    class_axis: int = 1
    top_k: int = 1
    ignore_label: int | None = None
    per_class: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        top_k = params.get("top_k", 1)
        if top_k < 0:
            params.error("top_k", f"top_k cannot be negative: {top_k}")
        return cls(
            params.get("axis", 1),
            top_k,
            params.optional("ignore_label", int),
            params.tops > 1,
        )

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        return some_labels(noise, self.class_axis, *inputs) if bottom == 1 else None

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, labels = inputs
        classes = x[check_labels(x, labels, self.class_axis)]
        if self.top_k > prod(x) // max(1, prod(labels)):
            raise ConversionError(f"top_k {self.top_k} exceeds the {classes} classes")
        return ((), (classes,)) if self.per_class else ((),)

    def layouts(self, *inputs: Operand) -> Layouts:
        x, labels = inputs
        axis = self.class_axis % len(x.shape)
        wanted = (row_major(x, without=axis), row_major(labels))
        outputs = (Layout.caffe(0), Layout.caffe(1))[: 1 + self.per_class]
        return Layouts(wanted, outputs)

    def call(self, at: Site) -> str:
        given = arguments(
            *at.args,
            axis=unless(at.axis(self.class_axis), -1),
            top_k=unless(self.top_k, 1),
            ignore_label=unless(self.ignore_label, None),
        )
        return f"{'accuracy_per_class' if self.per_class else 'accuracy'}({given})"

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        x, labels = inputs
        axis = self.class_axis % x.ndim
        score = at_label(x, labels, axis)
        better = (x >= np.expand_dims(score, axis)).sum(axis) - 1
        places = np.trunc(labels).reshape(score.shape)
        counts = places != self.ignore_label
        hits = (better < self.top_k) & counts
        share = np.asarray(hits.sum() / max(1, counts.sum()), np.float64)
        if not self.per_class:
            return share
        members = [counts & (places == k) for k in range(x.shape[axis])]
        per_class = [hits[m].sum() / max(1, m.sum()) for m in members]
        return share, np.asarray(per_class, np.float64)
