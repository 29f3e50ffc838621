"""Eltwise with one bottom, of FlowNet and the nets after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.ir.call import literal
from caffe2flax.ir.layer import Array, Elementwise, Site
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import variant


@variant("Eltwise", lambda params: params.bottoms == 1)
@dataclass(frozen=True, slots=True)
class ScaledBlob(Elementwise):
    """coeff * x: the sum of one bottom."""

    in_place = False

    coeff: float = 1.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("stable_prod_grad")
        operation = params.choice("operation", "PROD", "SUM", "MAX", default="SUM")
        if operation != "SUM":
            params.error("operation", f"{operation} of one bottom: give two or more")
        coeff = params.all("coeff", float)
        if len(coeff) > 1:
            params.error("coeff", f"{len(coeff)} coeff for 1 bottom: give one each")
        return cls((*coeff, 1.0)[0])

    def call(self, at: Site) -> str:
        x = at.operands[0]
        return x if self.coeff == 1 else f"{literal(self.coeff)} * {x}"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return self.coeff * inputs[0]
