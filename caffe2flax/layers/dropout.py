"""Dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.ir.abilities import Stochastic
from caffe2flax.ir.call import Call, arguments, literal
from caffe2flax.ir.layer import Array, Elementwise, Site
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("Dropout", "dropout_param")
@dataclass(frozen=True, slots=True)
class Dropout(Elementwise, Stochastic):
    """x in TEST; in TRAIN x * mask / (1 - dropout_ratio).

    `scale_train: false`, of Faster R-CNN's fork: (1 - dropout_ratio) * x in TEST, and
    x * mask in TRAIN. `sample_weights_test: true`, of SegNet's fork: in TEST as in
    TRAIN.
    """

    ratio: float = 0.5
    scale_train: bool = True
    always: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("engine")
        ratio = params.get("dropout_ratio", 0.5)
        scale_train = params.get("scale_train", True)
        always = params.get("sample_weights_test", False)
        if not 0 <= ratio <= 1:
            text = f"dropout_ratio {ratio} is not between 0 and 1"
            params.error("dropout_ratio", text)
        elif ratio == 1 and (params.phase == "TRAIN" or always):
            text = "dropout_ratio 1 leaves nothing: Caffe's output would be NaN"
            params.error("dropout_ratio", text)
        if always:
            params.note(
                f"{params.span('sample_weights_test')}: dropout stays on at test; the "
                "module takes rngs in every call"
            )
        return cls(ratio, scale_train, always)

    def draws(self, phase: str) -> bool:
        return self.ratio > 0 and (phase == "TRAIN" or self.always)

    def build(self, at: Site) -> Call:
        return Call.of("nnx.Dropout", self.ratio)

    def call(self, at: Site) -> str:
        deterministic = "False" if self.always else None
        given = arguments(at.x, deterministic=deterministic, rngs="rngs")
        kept = f"{at.module}({given})"
        return kept if self.scale_train else f"{literal(1 - self.ratio)} * {kept}"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return x if self.scale_train else (1 - self.ratio) * x
