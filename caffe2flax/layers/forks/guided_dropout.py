"""Dropout that other blobs guide, of the nets for domain guided re-identification."""

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


@layer("GuidedDropout", "guided_dropout_param")
@dataclass(frozen=True, slots=True)
class GuidedDropout(Layer):
    """x of the channels whose guidance exceeds a threshold, times the share of these,
    inverted; at TEST x itself, if the type is "stochastic"."""

    bottoms = 2

    stochastic: bool = False
    threshold: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        type_ = params.get("type", "deterministic")
        params.ignore("sigmoid_scaler")
        if type_ not in ("deterministic", "stochastic"):
            text = f"type is deterministic or stochastic, not {type_!r}"
            params.error("type", text)
        if type_ == "stochastic" and params.phase == "TRAIN":
            params.unsupported("type", "random: converted for TEST alone")
        return cls(type_ == "stochastic", params.get("guidance_threshold", 0.0))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, guidance = inputs
        if len(x) != 4 or guidance != (*x[:2], 1, 1):
            raise ConversionError(f"a guidance of {guidance} for {x}")
        return (x,)

    def layouts(self, *inputs: Operand) -> Layouts:
        last = Layout.channels_last(4)
        return Layouts((last, last), (last,))

    def call(self, at: Site) -> str:
        if self.stochastic:
            return at.x
        given = arguments(*at.args, threshold=unless(self.threshold, 0.0))
        return f"guided({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, guidance = inputs
        if self.stochastic:
            return x
        kept = guidance > self.threshold
        count = kept.sum(1, keepdims=True)
        top: Array = x * kept * x.shape[1] / np.maximum(count, 1)
        return top
