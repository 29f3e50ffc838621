"""Losses on the scores of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import ReadsFiles
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Arity, Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._infogain import InfogainOfProbabilities
from caffe2flax.layers._labels import (
    OVER_VALID,
    Averaging,
    at_label,
    check_batch,
    check_labels,
    check_legacy,
    check_one_each,
    loss_param,
    row_major,
    some_labels,
)

THRESHOLD = 1e-20
"""Caffe's kLOG_THRESHOLD."""


class ClassLoss(Layer):
    """A loss of scores (N, ...) and labels: one number."""

    __slots__ = ()

    bottoms: ClassVar[Arity] = 2
    tops: ClassVar[Arity] = (0, 1)
    in_place = False
    metric = True
    default_loss = 1.0

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        axis = getattr(self, "class_axis", 1)
        return some_labels(noise, axis, *inputs[:2]) if bottom == 1 else None


@layer("SoftmaxWithLoss", "softmax_param", "loss_param")
@dataclass(frozen=True, slots=True)
class SoftmaxWithLoss(ClassLoss):
    """Sum of -log(softmax(x)[label]) along `axis` / normalizer."""

    tops = (0, 2)

    class_axis: int = 1
    averaging: Averaging = OVER_VALID
    class_weights: tuple[float, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        if params.tops > 1:
            # Its inner Softmax gets the loss weights too, one more than it has tops.
            params.error(
                None,
                "Caffe's SoftmaxWithLoss aborts with a second top, whatever its "
                "loss_weight; compute the probabilities in a Softmax layer",
            )
        given = loss_param(params)
        weighted = given.get("weight_by_label_freqs", False)
        weights = given.all("class_weighting", float)
        averaging = Averaging.parse(given)
        return cls(params.get("axis", 1), averaging, weights if weighted else ())

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        check_batch(*inputs)
        x, labels = inputs
        axis = check_labels(x, labels, self.class_axis)
        if self.class_weights and len(self.class_weights) != x[axis]:
            raise ConversionError(
                f"{len(self.class_weights)} class_weighting for {x[axis]} classes"
            )
        return ((),)

    def layouts(self, *inputs: Operand) -> Layouts:
        x, labels = inputs
        axis = self.class_axis % len(x.shape)
        wanted = (row_major(x, without=axis), row_major(labels))
        return Layouts(wanted, (Layout.caffe(0),))

    def call(self, at: Site) -> str:
        options = _options(at, self.class_axis, self.averaging)
        options["class_weights"] = unless(self.class_weights, ())
        return f"softmax_loss({arguments(*at.args, **options)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, labels = inputs
        axis = self.class_axis % x.ndim
        p = np.maximum(softmax(x, axis), np.finfo(np.float32).tiny)
        losses = -np.log(at_label(p, labels, axis))
        if self.class_weights:
            classes = labels.astype(int).clip(0, len(self.class_weights) - 1)
            weights = np.asarray(self.class_weights)[classes]
            losses = losses * weights.reshape(losses.shape)
        return self.averaging.of(losses, labels.reshape(losses.shape), axis)


@layer("InfogainLoss", "infogain_loss_param", "loss_param")
@dataclass(frozen=True, slots=True)
class InfogainLoss(ClassLoss, ReadsFiles):
    """Sum of -H[label, k] * log(softmax(x)[k]) over k along `axis` / normalizer."""

    bottoms = (2, 3)
    tops = (0, 2)

    class_axis: int = 1
    averaging: Averaging = OVER_VALID
    file: str = ""
    with_probabilities: bool = False

    @classmethod
    def parse(cls, params: Params) -> Layer:
        source = params.get("source", "")
        if params.bottoms < 3 and not params.has("source"):
            text = "needs its matrix H: give it as third bottom, or name its source"
            params.error(None, text)
        file = source if params.bottoms < 3 else ""
        if _holds_probabilities(params):
            return InfogainOfProbabilities(file)
        return cls(
            params.get("axis", 1),
            Averaging.parse(loss_param(params), older=False),
            source if params.bottoms < 3 else "",
            params.tops > 1,
        )

    def files(self, *inputs: Shape) -> dict[str, Shape]:
        if not self.file:
            return {}
        x, labels = inputs
        classes = x[check_labels(x, labels, self.class_axis)]
        return {self.file: (classes, classes)}

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, labels, *infogain = inputs
        check_batch(*inputs)
        classes = x[check_labels(x, labels, self.class_axis)]
        if infogain and prod(infogain[0]) != classes**2:
            size = f"{classes} x {classes}"
            raise ConversionError(f"H must be {size} for these classes: {infogain[0]}")
        return ((), x) if self.with_probabilities else ((),)

    def layouts(self, *inputs: Operand) -> Layouts:
        x, labels, infogain = inputs
        of_x = row_major(x, without=self.class_axis % len(x.shape))
        outputs = (Layout.caffe(0), of_x)[: 1 + self.with_probabilities]
        return Layouts((of_x, row_major(labels), row_major(infogain)), outputs)

    def call(self, at: Site) -> str:
        options = _options(at, self.class_axis, self.averaging)
        loss = f"infogain_loss({arguments(*at.args, **options)})"
        if not self.with_probabilities:
            return loss
        softmax = f"nnx.softmax({arguments(at.x, axis=options['axis'])})"
        return f"{loss}, lax.stop_gradient({softmax})"

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        x, labels, infogain = inputs
        axis = self.class_axis % x.ndim
        p = softmax(x, axis)
        log_p = np.log(np.maximum(p, THRESHOLD))
        by_row = np.tensordot(infogain.reshape((x.shape[axis],) * 2), log_p, (1, axis))
        losses = -at_label(np.moveaxis(by_row, 0, axis), labels, axis)
        loss = self.averaging.of(losses, labels.reshape(losses.shape), axis)
        return (loss, p) if self.with_probabilities else loss


def _holds_probabilities(params: Params) -> bool:
    """Whether an InfogainLoss is that of Caffe before 1.0, with probabilities."""
    meaning = params.dialect("InfogainLoss")
    newer = params.has("axis") or params.tops > 1
    if not meaning and params.bottom_types[:1] == ("Softmax",) and not newer:
        why = "its bottom comes from a Softmax"
        meaning = params.decided("InfogainLoss", "probabilities", why)
    if not meaning:
        why = "that is Caffe 1.0's, and nothing tells otherwise"
        meaning = params.decided("InfogainLoss", "logits", why)
    return meaning == "probabilities"


class RowLoss(ClassLoss):
    """A loss in which all axes after the first are classes."""

    __slots__ = ()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        check_batch(*inputs)
        check_legacy(*inputs)
        check_one_each(*inputs)
        return ((),)

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts(tuple(map(row_major, inputs)), (Layout.caffe(0),))


@layer("MultinomialLogisticLoss")
@dataclass(frozen=True, slots=True)
class MultinomialLogisticLoss(RowLoss):
    """Mean over n of -log(p[n, label])."""

    def call(self, at: Site) -> str:
        return f"multinomial_logistic_loss({arguments(*at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        p, labels = inputs
        chosen = at_label(p.reshape(len(p), -1), labels, 1)
        return np.asarray(-np.log(np.maximum(chosen, THRESHOLD)).mean())


@layer("HingeLoss", "hinge_loss_param")
@dataclass(frozen=True, slots=True)
class HingeLoss(RowLoss):
    """Mean over n of the sum of max(0, 1 - s x)^(1, 2); s = 1 at the label, else -1."""

    norm: str = "L1"

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.choice("norm", "", "L1", "L2", default="L1"))

    def call(self, at: Site) -> str:
        return f"hinge_loss({arguments(*at.args, norm=unless(self.norm, 'L1'))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, labels = inputs
        margins = x.reshape(len(x), -1).copy()
        margins[np.arange(len(x)), np.trunc(labels).astype(int).ravel()] *= -1
        losses = np.maximum(0, 1 + margins)
        return np.asarray((losses ** int(self.norm[1])).sum() / len(x))


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis, keepdims=True))
    total: Array = powers / powers.sum(axis, keepdims=True)
    return total


def _options(at: Site, axis: int, averaging: Averaging) -> dict[str, str | None]:
    """The keyword arguments for the class axis and for the labels that count."""
    axis %= len(at.input.shape)
    by_batch = averaging.normalization == "BATCH_SIZE"
    return {
        "axis": unless(at.axis(axis), -1),
        "ignore_label": unless(averaging.ignore_label, None),
        "normalization": unless(averaging.normalization, "VALID"),
        "batch_axes": unless(axis, 1) if by_batch else None,
    }
