"""Losses of region-based detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import TrainingOnly, four_axes


@layer("SmoothL1Loss", "smooth_l1_loss_param", "loss_param")
@dataclass(frozen=True, slots=True)
class SmoothL1Loss(Layer):
    """Mean over n of the sum of outside * f(inside * (a - b)); with three bottoms
    outside is 1.

    f(d) is (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2).
    """

    bottoms = (2, 4)
    in_place = False
    metric = True
    default_loss = 1.0

    sigma: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        sigma = params.get("sigma", 1.0)
        if not 0 < abs(sigma) < float("inf"):
            params.error("sigma", f"sigma cannot be {sigma}")
        return cls(sigma)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len({four_axes(shape) for shape in inputs}) > 1:
            shapes = ", ".join(map(str, inputs))
            raise ConversionError(f"all bottoms must have one shape, not {shapes}")
        return ((),)

    def layouts(self, *inputs: Operand) -> Layouts:
        first = inputs[0].layout.plain()
        if first.axes[:1] != (0,) or any(x.shape != inputs[0].shape for x in inputs):
            wanted = tuple(Layout.caffe(len(x.shape)) for x in inputs)
        else:
            wanted = (first,) * len(inputs)
        return Layouts(wanted, (Layout.caffe(0),))

    def call(self, at: Site) -> str:
        sigma = unless(self.sigma, 1.0)
        return f"smooth_l1_loss({arguments(*at.args, sigma=sigma)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        a, b, *weights = (x.reshape(inputs[0].shape) for x in inputs)
        inside, outside = (*weights, *(np.ones_like(a),) * 2)[:2]
        d = inside * (a - b)
        square = self.sigma**2
        small = 0.5 * square * d**2
        f = np.where(np.abs(d) < 1 / square, small, np.abs(d) - 0.5 / square)
        total: Array = np.asarray((outside * f).sum() / len(a))
        return total


@layer("SoftmaxWithLossOHEM", "softmax_param", "loss_param")
class SoftmaxWithLossOHEM(TrainingOnly):
    """A loss for each region, by which hard ones are mined: training only."""

    __slots__ = ()


@layer("SmoothL1LossOHEM", "smooth_l1_loss_param", "loss_param")
class SmoothL1LossOHEM(TrainingOnly):
    """A loss for each region, by which hard ones are mined: training only."""

    __slots__ = ()


@layer("BoxAnnotatorOHEM", "box_annotator_ohem_param")
class BoxAnnotatorOHEM(TrainingOnly):
    """Selects the hard regions, which count in the loss: training only."""

    __slots__ = ()
