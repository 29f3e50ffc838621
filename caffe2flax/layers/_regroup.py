"""What all changes of shape have in common."""

from __future__ import annotations

from collections.abc import Sequence

from caffe2flax.errors import ConversionError
from caffe2flax.layout import Layout, Operand, regroup
from caffe2flax.registry import Array, Layer, Layouts, Site


class Regroup(Layer):
    """A change of shape that keeps Caffe's C order of the elements."""

    __slots__ = ()

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        try:
            (scaled,) = self.infer(x.scaled)
        except ConversionError:
            scaled = ()
        free = regroup(x, shape, scaled)
        if free is not None:
            return Layouts((x.layout,), (free,))
        return Layouts((Layout.caffe(len(x.shape)),), (Layout.caffe(len(shape)),))

    def call(self, at: Site) -> str:
        if at.input.emitted == at.output.emitted:
            return at.x
        dims = at.output.reshape_dims()
        if len(dims) == 2 and at.output.is_batch(0) and at.input.is_batch(0):
            return f"flatten({at.x})"
        return f"{at.operands[0]}.reshape({', '.join(map(str, dims)) or '()'})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        (shape,) = self.infer(x.shape)
        return x.reshape(shape)
