"""The base class of layers that only change the shape."""

from __future__ import annotations

from collections.abc import Sequence

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import PassesValues
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
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
        dims = self._dims(at)
        return f"{at.operands[0]}.reshape({', '.join(dims) or '()'})"

    def inferred(self, shape: Shape) -> int | None:
        """The axis of the top whose extent follows from what remains, if one does."""
        return None

    def _dims(self, at: Site) -> Sequence[str]:
        """The arguments of `reshape`: -1 where the net has it, so that the sizes of
        images stay free, else for the extent that depends on the batch."""
        y, axis = at.output, self.inferred(at.input.shape)
        batch = [i for i in range(len(y.shape)) if y.is_batch(i)]
        whole = at.input.is_batch(0) and at.input.layout.position(0) == 0
        copied = batch == [0] and whole and y.shape[0] == at.input.shape[0]
        if axis is None or axis in batch or not (copied or not batch):
            return [str(extent) for extent in y.reshape_dims()]
        dims = [str(extent) for extent in y.shape]
        dims[axis] = "-1"
        if batch:
            dims[0] = f"len({at.x})"
        return y.layout.arrange_each(dims)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        return x.reshape(shape)


def _keeps_items(x: Operand, y: Operand) -> bool:
    """Whether both have the same batch, as the first axis of the emitted array."""
    if x.shape[:1] != y.shape[:1] or not (x.is_batch(0) and y.is_batch(0)):
        return False
    return x.leads(1) and y.leads(1)
