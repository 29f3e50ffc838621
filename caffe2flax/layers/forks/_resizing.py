"""What layers that resize images have in common."""

from __future__ import annotations

from abc import abstractmethod

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal, unless
from caffe2flax.ir.layer import Layer, Layouts, Site
from caffe2flax.ir.layout import Operand, Shape


class Resizing(Layer):
    """A layer that works along height and width, in any layout."""

    __slots__ = ()

    in_place = False

    def axes(self, rank: int) -> tuple[int, int]:
        """Caffe's axes of height and width."""
        return (rank - 2, rank - 1)

    @abstractmethod
    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the top. Raises ConversionError."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if len(shape) != 4:
            raise ConversionError(f"{self.type} needs a blob of 4 axes, not {shape}")
        axes = self.axes(4)
        top = list(shape)
        for axis, size in zip(axes, self.sizes(*(shape[a] for a in axes)), strict=True):
            if size < 1:
                raise ConversionError(f"the top would have {size} rows or columns")
            top[axis] = size
        return (tuple(top),)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout.plain(*self.axes(len(inputs[0].shape)))
        return Layouts((layout,), (layout,))

    def where(self, at: Site) -> dict[str, str | None]:
        """The `axes` argument of the function in `ops/`, unless it is the default."""
        axes = tuple(at.axis(axis) for axis in self.axes(len(at.input.shape)))
        rank = len(at.input.shape)
        return {"axes": unless(tuple(axis % rank for axis in axes), (1, 2))}

    def size(self, at: Site) -> str:
        return literal(tuple(at.output.shape[a] for a in self.axes(4)))
