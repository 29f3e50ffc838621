"""Weight blobs and second bottoms that are broadcast along some axes of a blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import Code
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Layouts, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params


@dataclass(frozen=True, slots=True)
class AxisRange:
    """The axes of a blob that another blob has: `count` from `first` on, -1 for all."""

    first: int = 1
    count: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        """Reads `axis` and `num_axes`; a second bottom's rank overrides the latter."""
        first, count = params.get("axis", 1), params.get("num_axes", 1)
        if params.bottoms == 1 and count < -1:
            params.error("num_axes", f"num_axes must be -1 or more, not {count}")
        return cls(first, count)

    def of(self, shape: Shape) -> tuple[int, int]:
        """First axis and end. Raises ConversionError where `shape` has fewer axes."""
        start = canonical_axis(self.first, len(shape))
        end = len(shape) if self.count < 0 else start + self.count
        if end > len(shape):
            raise ConversionError(
                f"axis {self.first} and {self.count} axes from there on exceed a blob "
                f"of {len(shape)} axes"
            )
        return start, end

    def shape(self, shape: Shape) -> Shape:
        """The extents of these axes."""
        start, end = self.of(shape)
        return shape[start:end]

    def second(self, shape: Shape, other: Shape) -> tuple[int, int]:
        """First axis and end for a second bottom of shape `other`; 0, 0 for a scalar.

        Raises ConversionError where it does not fit.
        """
        if not other:
            return 0, 0
        start, end = AxisRange(self.first, len(other)).of(shape)
        if shape[start:end] != other:
            raise ConversionError(
                f"the second bottom {other} does not fit the axes {start} to "
                f"{end - 1} of {shape}"
            )
        return start, end


CHANNELS = AxisRange()
"""Caffe's default: axis 1 only."""


def arranged(x: Operand, start: int, end: int) -> tuple[Shape, Shape]:
    """The extents of Caffe's axes `start` to `end` in emitted order, and the emitted
    axes of x that a blob with only those axes lacks; none for a scalar."""
    covered = [axis for axis in x.layout.axes if start <= axis < end]
    lacking = [
        i for i, axis in enumerate(x.layout.axes) if covered and axis not in covered
    ]
    return tuple(x.shape[axis] for axis in covered), tuple(lacking)


def expanded(x: Operand, text: str, start: int, end: int) -> str:
    """`text`, a blob with Caffe's axes `start` to `end` of x, as an operand that
    broadcasts against x."""
    _, lacking = arranged(x, start, end)
    if not lacking:
        return text
    axes = lacking[0] if len(lacking) == 1 else lacking
    return f"jnp.expand_dims({text}, {axes})"


def joined(x: Operand, other: Operand, start: int) -> Layouts:
    """Layouts in which `other` has the axes of x from `start` on in the same order; x
    is not transposed."""
    end = start + len(other.shape)
    clashes = [
        axis
        for axis in range(start, end)
        if x.layout.orders[axis] != other.layout.orders[axis - start]
    ]
    x_layout = x.layout.plain(*clashes) if clashes else x.layout
    axes = tuple(axis - start for axis in x_layout.axes if start <= axis < end)
    other_layout = Layout(axes, x_layout.orders[start:end])
    return Layouts((x_layout, other_layout), (x_layout,))


def along(blob: Array, x: Array, start: int) -> Array:
    """`blob`, with the axes of x from `start` on, reshaped to broadcast against x."""
    rest = x.ndim - start - blob.ndim
    return blob.reshape((1,) * start + blob.shape + (1,) * rest)


def initializer(
    given: bool, filler: Filler, shape: Shape, usual: Filler
) -> Code | None:
    """A blob's initializer; None where none is `given` or it is the `usual` one."""
    return Code(filler.initializer(shape)) if given and filler != usual else None


def shapes(operands: Sequence[Operand]) -> tuple[Shape, ...]:
    """The shapes of the operands in Caffe's axis order."""
    return tuple(operand.shape for operand in operands)
