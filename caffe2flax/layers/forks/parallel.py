"""Layers between processes that share one batch; a module is one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@dataclass(frozen=True, slots=True)
class Exchanged(Layer):
    """Its bottoms, as the module is one process."""

    bottoms = (1, None)
    tops = (1, None)
    in_place = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.bottoms != params.tops:
            params.unsupported(
                None,
                f"{cls.type} between processes has as many tops as bottoms, not "
                f"{params.tops} for {params.bottoms}; forks mean several other layers "
                "by that name: say by a plug-in which it is",
            )
        else:
            params.note(
                f"{params.span()}: {cls.type} is taken to join the processes that "
                "share a batch: in one process its tops are its bottoms"
            )
        return cls()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        same = tuple(operand.layout for operand in inputs)
        return Layouts(same, same)

    def call(self, at: Site) -> str:
        return ", ".join(at.args)

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        return inputs if len(inputs) > 1 else inputs[0]


@layer("Gather")
class Gather(Exchanged):
    """The bottoms of all processes, concatenated: those of the one process."""

    __slots__ = ()


@layer("Scatter")
class Scatter(Exchanged):
    """A part of the bottoms for each process: all for the one process."""

    __slots__ = ()
