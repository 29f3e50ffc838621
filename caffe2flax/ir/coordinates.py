"""Where the pixels of a top lie in the first bottom, for rows and for columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fractions import Fraction

from caffe2flax.ir.window import Window

CoordinateMap = tuple[tuple[Fraction, Fraction], ...]
"""index in the top = scale * index in the bottom + shift, for rows and for columns."""

IDENTITY: CoordinateMap = ((Fraction(1), Fraction(0)),) * 2


class Spatial(ABC):
    """A layer of which it is known where the pixels of its top lie in its first
    bottom."""

    __slots__ = ()

    @abstractmethod
    def coordinate_map(self) -> CoordinateMap | None:
        """None where these parameters leave it without a meaning. Raises
        ConversionError where the windows do not lie on two axes."""


class Pointwise(Spatial):
    """A layer in which each pixel of the top follows from that pixel of the first
    bottom."""

    __slots__ = ()

    def coordinate_map(self) -> CoordinateMap:
        return IDENTITY


def shrinking(windows: Iterable[Window]) -> CoordinateMap:
    """Of a convolution or a pooling."""
    return tuple(
        (Fraction(1, w.stride), Fraction(2 * w.pad + 1 - w.extent, 2 * w.stride))
        for w in windows
    )


def growing(windows: Iterable[Window]) -> CoordinateMap:
    """Of a deconvolution."""
    return tuple(
        (Fraction(w.stride), Fraction(w.extent - 1 - 2 * w.pad, 2)) for w in windows
    )
