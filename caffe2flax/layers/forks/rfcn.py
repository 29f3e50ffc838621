"""Losses of R-FCN's fork, which also give the loss of each instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import variant
from caffe2flax.layers._forks import four_axes
from caffe2flax.layers._labels import (
    at_label,
    check_batch,
    check_labels,
    loss_param,
    some_labels,
)


@dataclass(frozen=True, slots=True)
class Divisor:
    """What a sum of losses is divided by: `normalization` of the fork's `loss_param`,
    in which PRE_FIXED is 3 and NONE is 4."""

    normalization: str = "VALID"
    fixed: float = 1.0
    ignore_label: int | None = None

    @classmethod
    def parse(cls, given: Params) -> Self:
        modes = ("FULL", "VALID", "BATCH_SIZE", "PRE_FIXED", "NONE")
        mode = given.choice("normalization", *modes, default="VALID")
        normalize = given.optional("normalize", bool)
        if normalize is not None and not given.has("normalization"):
            mode = "VALID" if normalize else "BATCH_SIZE"
        fixed = given.get("pre_fixed_normalizer", 1.0)
        if not 0 < fixed < float("inf"):
            params = "pre_fixed_normalizer"
            given.error(params, f"{params} must be positive, not {fixed}")
        return cls(mode, fixed, given.optional("ignore_label", int))

    def options(self) -> dict[str, str | None]:
        fixed = self.fixed if self.normalization == "PRE_FIXED" else None
        return {
            "normalization": unless(self.normalization, "VALID"),
            "fixed": unless(fixed, None),
        }

    def of(self, shape: Shape, valid: int) -> float:
        """For losses of this shape, of which `valid` count."""
        counts: Mapping[str, float] = {
            "FULL": prod(shape),
            "VALID": valid,
            "BATCH_SIZE": shape[0],
            "PRE_FIXED": self.fixed,
            "NONE": 1,
        }
        return max(1.0, counts[self.normalization])


class InstanceLoss(Layer):
    """A loss with a top for each instance."""

    __slots__ = ()

    in_place = False
    metric = True
    default_loss = 1.0

    def layouts(self, *inputs: Operand) -> Layouts:
        tops = self.infer(*(operand.shape for operand in inputs))
        return Layouts(
            tuple(Layout.caffe(len(operand.shape)) for operand in inputs),
            tuple(Layout.caffe(len(shape)) for shape in tops),
        )


@variant("SoftmaxWithLoss", lambda params: params.tops == 3)
@dataclass(frozen=True, slots=True)
class SoftmaxWithLossEach(InstanceLoss):
    """Sum of -log(softmax(x)[label]) / normalizer; the probabilities; each term, 0
    where a label does not count."""

    bottoms = 2
    tops = 3

    class_axis: int = 1
    divisor: Divisor = Divisor()

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("axis", 1), Divisor.parse(loss_param(params)))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        check_batch(*inputs)
        x, labels = inputs
        check_labels(x, labels, self.class_axis)
        return ((), x, labels)

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        return some_labels(noise, self.class_axis, *inputs) if bottom == 1 else None

    def call(self, at: Site) -> str:
        axis = self.class_axis % len(at.input.shape)
        ignored = unless(self.divisor.ignore_label, None)
        options = {"axis": unless(axis, 1), "ignore_label": ignored}
        given = arguments(*at.args, **options, **self.divisor.options())
        return f"softmax_losses({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        x, labels = inputs
        axis = self.class_axis % x.ndim
        powers = np.exp(x - x.max(axis, keepdims=True))
        p = powers / powers.sum(axis, keepdims=True)
        each = -np.log(np.maximum(at_label(p, labels, axis), np.finfo(np.float32).tiny))
        valid = np.trunc(labels).reshape(each.shape) != self.divisor.ignore_label
        each = np.where(valid, each, 0)
        total = each.sum() / self.divisor.of(each.shape, int(valid.sum()))
        return np.asarray(total), p, each.reshape(labels.shape)


@variant("SmoothL1Loss", lambda params: params.tops == 2)
@dataclass(frozen=True, slots=True)
class SmoothL1LossEach(InstanceLoss):
    """Sum of outside * f(inside * (a - b)) / normalizer, f as in SmoothL1Loss; and its
    sum over the channels of each instance (N, 1, H, W)."""

    bottoms = (2, 4)
    tops = 2

    sigma: float = 1.0
    divisor: Divisor = Divisor()

    @classmethod
    def parse(cls, params: Params) -> Self:
        sigma = params.get("sigma", 1.0)
        if not 0 < abs(sigma) < float("inf"):
            params.error("sigma", f"sigma cannot be {sigma}")
        return cls(sigma, Divisor.parse(loss_param(params)))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        wanted = {four_axes(shape) for shape in inputs}
        if len(wanted) > 1:
            shapes = ", ".join(map(str, inputs))
            raise ConversionError(f"all bottoms must have one shape, not {shapes}")
        ((images, _, height, width),) = wanted
        return ((), (images, 1, height, width))

    def call(self, at: Site) -> str:
        sigma = unless(self.sigma, 1.0)
        options = self.divisor.options()
        return f"smooth_l1_losses({arguments(*at.args, sigma=sigma, **options)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        shape = four_axes(inputs[0].shape)
        a, b, *weights = (x.reshape(shape) for x in inputs)
        inside, outside = (*weights, *(np.ones_like(a),) * 2)[:2]
        d = inside * (a - b)
        square = self.sigma**2
        small = 0.5 * square * d**2
        f = np.where(np.abs(d) < 1 / square, small, np.abs(d) - 0.5 / square)
        each = (outside * f).sum(1, keepdims=True)
        total = each.sum() / self.divisor.of(each.shape, each.size)
        return np.asarray(total), each
