"""The base class of layers that only change the shape."""

from __future__ import annotations

from collections.abc import Sequence

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import PassesValues
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand
from caffe2flax.ir.reshape import layout_after_reshape


class ReshapeLayer(Layer, PassesValues):
    """A change of shape that keeps Caffe's C order of the elements."""

    __slots__ = ()

    in_place = False

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        try:
            (scaled,) = self.infer(x.scaled)
        except ConversionError:
            scaled = ()
        free = layout_after_reshape(x, shape, scaled)
        if free is not None:
            return Layouts((x.layout,), (free,))
        return Layouts((Layout.caffe(len(x.shape)),), (Layout.caffe(len(shape)),))

    def call(self, at: Site) -> str:
        same = at.input.layout.arrange(at.input.scaled)
        if same == at.output.layout.arrange(at.output.scaled):
            return at.x
        if len(at.output.shape) == 2 and _keeps_items(at.input, at.output):
            return f"lax.collapse({at.x}, 1)"
        dims = at.output.reshape_dims()
        return f"{at.operands[0]}.reshape({', '.join(map(str, dims)) or '()'})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        return x.reshape(shape)


def _keeps_items(x: Operand, y: Operand) -> bool:
    """Whether both have the same batch, as the first axis of the emitted array."""
    if x.shape[:1] != y.shape[:1] or not (x.is_batch(0) and y.is_batch(0)):
        return False
    return x.leads(1) and y.leads(1)
