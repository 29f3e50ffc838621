"""Layers that compute training targets from ground truth, which the caller does
here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from caffe2flax.ir.abilities import ComputedByCaller
from caffe2flax.ir.layer import Arity, Array, Layer, Site
from caffe2flax.ir.layout import Shape


class Target(Layer, ComputedByCaller):
    """A layer whose tops are inputs of the module in TRAIN; left out in TEST."""

    __slots__ = ()

    bottoms: ClassVar[Arity] = (1, None)
    tops: ClassVar[Arity] = (1, None)
    in_place = False
    metric = True

    def call(self, at: Site) -> str:
        raise AssertionError("its tops are arguments of the module")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("its tops are arguments, not computed")


@dataclass(frozen=True, slots=True)
class Sampled(Target):
    """Regions sampled from proposals, with their labels and targets."""

    shapes: tuple[Shape, ...]
    """The shape of each top."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return self.shapes
