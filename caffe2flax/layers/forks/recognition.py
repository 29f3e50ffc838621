"""Layers of text recognition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.ir.layer import Array, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import positive


@layer("ContinuationIndicator", "continuation_indicator_param")
@dataclass(frozen=True, slots=True)
class ContinuationIndicator(Layer):
    """(time_step, batch_size) numbers that say that each sequence starts at its first
    step: 0 in the first row, 1 in the others."""

    bottoms = 0

    shape: tuple[int, int]

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls((positive(params, "time_step"), positive(params, "batch_size")))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return (self.shape,)

    def call(self, at: Site) -> str:
        return f"jnp.ones({self.shape}).at[0].set(0)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top = np.ones(self.shape)
        top[0] = 0
        return top
