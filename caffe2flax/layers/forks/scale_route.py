"""The layer of Cascade R-CNN's fork that picks regions by their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import four_axes
from caffe2flax.layers.forks._regression import trimmed


@layer("ScaleRoute", "scale_route_param")
@dataclass(frozen=True, slots=True)
class ScaleRoute(Layer):
    """The rows of all bottoms whose region in the first has low_scale <= sqrt(area) <
    high_scale; without one, that of the nearest region.

    Caffe's number of rows depends on the data. The module has as many as the bottoms;
    unused rows repeat the last one.
    """

    bottoms = (1, None)
    tops = (1, None)
    in_place = False

    low: float = 0.0
    high: float = inf
    middle: float = 256.0
    count: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.bottoms != params.tops:
            params.error(None, "as many tops as bottoms are needed")
        low, high = (params.optional(f"{n}_scale", float) for n in ("low", "high"))
        if low is not None and not low > 0:
            params.error("low_scale", f"low_scale must be positive, not {low}")
        if (high is not None and not (low or 0) <= high < inf) or high == 0:
            params.error("high_scale", f"high_scale cannot be {high}")
        middle = 256.0
        if low is not None and high is not None:
            middle = float(np.sqrt(max(low * high, 0)))
        elif low is not None or high is not None:
            middle = high if low is None else low  # type: ignore[assignment]
        return cls(low or 0.0, inf if high is None else high, middle, params.tops)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        rois = inputs[0]
        if (
            len(rois) < 2
            or prod(rois[1:]) != 5
            or any(not x or x[0] != rois[0] for x in inputs)
        ):
            raise ConversionError(
                "needs regions (R, 5) first, and blobs of R rows, not "
                f"{', '.join(map(str, inputs))}"
            )
        return tuple(map(four_axes, inputs))

    def layouts(self, *inputs: Operand) -> Layouts:
        last = Layout.channels_last(4)
        wanted = tuple(
            last if x.layout == last and i else Layout.caffe(len(x.shape))
            for i, x in enumerate(inputs)
        )
        tops = (x if x == last else Layout.caffe(4) for x in wanted)
        return Layouts(wanted, tuple(tops))

    def call(self, at: Site) -> str:
        settings = arguments(
            *at.args,
            low=literal(self.low),
            high="jnp.inf" if self.high == inf else literal(self.high),
            middle=literal(self.middle),
        )
        return f"scale_route({settings})" + ("[0]" if self.count == 1 else "")

    def trim(self, top: Array) -> Array:
        return trimmed(top)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        rois = inputs[0].reshape(-1, 5).astype(np.float32)
        sides = rois[:, 3:] - rois[:, 1:3]
        area = np.where((sides >= 0).all(1), (sides + 1).prod(1), 0)
        scale = np.sqrt(area)
        (rows,) = np.nonzero((scale >= self.low) & (scale < self.high))
        if not len(rows):
            with np.errstate(divide="ignore"):
                far = np.abs(np.log2(scale / np.float32(self.middle)))
            rows = np.array([far.argmin()])
        tops = tuple(x[rows].reshape(-1, *four_axes(x.shape)[1:]) for x in inputs)
        return tops if self.count > 1 else tops[0]
