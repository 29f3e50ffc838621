"""Losses that compare two blobs entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Arity, Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._labels import (
    OVER_BATCH,
    Averaging,
    check_batch,
    check_legacy,
    check_one_each,
    paired,
    row_major,
)


class PairLoss(Layer):
    """A loss of two blobs with the same number of entries: one number."""

    __slots__ = ()

    bottoms: ClassVar[Arity] = 2
    tops: ClassVar[Arity] = (0, 1)
    in_place = False
    metric = True
    default_loss = 1.0

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        check_batch(*inputs)
        a, b = inputs[:2]
        if prod(a) != prod(b):
            raise ConversionError(f"bottoms must have one size, not {a} and {b}")
        return ((),)

    def layouts(self, *inputs: Operand) -> Layouts:
        a, b, *labels = inputs
        wanted = (*paired(a, b), *map(row_major, labels))
        return Layouts(wanted, (Layout.caffe(0),))


@layer("SigmoidCrossEntropyLoss", "loss_param")
@dataclass(frozen=True, slots=True)
class SigmoidCrossEntropyLoss(PairLoss):
    """Sum of -t log(s) - (1 - t) log(1 - s), s = sigmoid(x), / normalizer."""

    averaging: Averaging = OVER_BATCH

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.dialect("SigmoidCrossEntropyLoss") == "batch":
            params.ignore("normalization", "normalize", "ignore_label")
            return cls()
        return cls(Averaging.parse(params, default="BATCH_SIZE"))

    def call(self, at: Site) -> str:
        given = arguments(
            *at.args,
            ignore_label=unless(self.averaging.ignore_label, None),
            normalization=unless(self.averaging.normalization, "BATCH_SIZE"),
        )
        return f"sigmoid_loss({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, targets = inputs
        t = targets.reshape(x.shape)
        losses = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
        return self.averaging.of(losses, t, 1)


@layer("EuclideanLoss")
@dataclass(frozen=True, slots=True)
class EuclideanLoss(PairLoss):
    """Mean over n of the sum of (a - b)^2 / 2."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        check_legacy(inputs[0])
        # super() fails in a class that dataclass(slots=True) has replaced.
        return PairLoss.infer(self, *inputs)

    def call(self, at: Site) -> str:
        return f"euclidean_loss({arguments(*at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        a, b = inputs
        return np.asarray(np.square(a - b.reshape(a.shape)).sum() / len(a) / 2)


@layer("ContrastiveLoss", "contrastive_loss_param")
@dataclass(frozen=True, slots=True)
class ContrastiveLoss(PairLoss):
    """Mean over n of d^2 / 2 if similar, else max(margin - d, 0)^2 / 2; d = |a - b|."""

    bottoms = 3

    margin: float = 1.0
    legacy: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.get("margin", 1.0), params.get("legacy_version", False))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        check_legacy(*inputs)
        a, b, similar = inputs
        for shape in (a, b):
            if prod(shape[2:]) != 1:
                raise ConversionError(f"a pair's blobs must be (N, C), not {shape}")
        check_one_each(a, similar)
        return PairLoss.infer(self, *inputs)

    def call(self, at: Site) -> str:
        given = arguments(
            *at.args,
            margin=unless(self.margin, 1.0),
            legacy=literal(True) if self.legacy else None,
        )
        return f"contrastive_loss({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        a, b, similar = inputs
        square = np.square((a - b.reshape(a.shape)).reshape(len(a), -1)).sum(1)
        far = np.maximum(self.margin - np.sqrt(square), 0) ** 2
        if self.legacy:
            far = np.maximum(self.margin - square, 0)
        losses = np.where(np.trunc(similar).ravel() != 0, square, far)
        return np.asarray(losses.sum() / len(a) / 2)
