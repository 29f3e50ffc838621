"""A repeated block as a layer of the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe2flax.ir.call import Call, Repeated
from caffe2flax.ir.layer import Array, Layer, Site
from caffe2flax.ir.layout import Shape


@dataclass(frozen=True, slots=True)
class BlockCall(Layer):
    """A block, or a run of `count` equal ones, as one layer of the net."""

    block: Call
    """What makes its module."""
    random: bool
    count: int = 1

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        raise AssertionError("shapes are known before blocks are made")

    def build(self, at: Site) -> Call:
        if self.count == 1:
            return self.block
        return Call("nnx.Sequential", (Repeated(self.block, self.count),))

    def call(self, at: Site) -> str:
        rngs = ", rngs=rngs" if self.random else ""
        return f"{at.module}({', '.join(at.args)}{rngs})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("the reference runs the layers of a block one by one")
