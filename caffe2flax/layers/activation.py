"""Functions of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.params import Params
from caffe2flax.registry import Array, Elementwise, Site, layer


@layer("ReLU", "relu_param")
@dataclass(frozen=True, slots=True)
class ReLU(Elementwise):
    """max(x, 0) + negative_slope * min(x, 0)."""

    negative_slope: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        return cls(params.get("negative_slope", 0.0))

    def call(self, at: Site) -> str:
        if not self.negative_slope:
            return f"nnx.relu({at.x})"
        return f"nnx.leaky_relu({at.x}, {self.negative_slope})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return np.maximum(x, 0) + self.negative_slope * np.minimum(x, 0)


@layer("Dropout", "dropout_param")
@dataclass(frozen=True, slots=True)
class Dropout(Elementwise):
    """x at test; in training x * mask / (1 - dropout_ratio)."""

    ratio: float = 0.5

    @classmethod
    def parse(cls, params: Params) -> Self:
        ratio = params.get("dropout_ratio", 0.5)
        if not 0 < ratio < 1:
            params.error(
                "dropout_ratio", f"dropout_ratio {ratio} is not between 0 and 1"
            )
        return cls(ratio)

    def build(self, at: Site) -> str:
        return f"nnx.Dropout({self.ratio})"

    def call(self, at: Site) -> str:
        return f"{at.module}({at.x}, rngs=rngs)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return inputs[0]
