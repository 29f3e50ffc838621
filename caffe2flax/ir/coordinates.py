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
    """A layer with a known map from the pixels of its top to those of its first
    bottom."""

    __slots__ = ()

    @abstractmethod
    def coordinate_map(self) -> CoordinateMap | None:
        """The map; None where there is none for these parameters. Raises
        ConversionError where the windows do not have two axes."""


class Pointwise(Spatial):
    """A layer that computes each pixel of the top from the same pixel of the first
    bottom."""

    __slots__ = ()

    def coordinate_map(self) -> CoordinateMap:
        return IDENTITY


def shrinking(windows: Iterable[Window]) -> CoordinateMap:
    """The map of a convolution or a pooling."""
    return tuple(
        (Fraction(1, w.stride), Fraction(2 * w.pad + 1 - w.extent, 2 * w.stride))
        for w in windows
    )


def growing(windows: Iterable[Window]) -> CoordinateMap:
    """The map of a deconvolution."""
    return tuple(
        (Fraction(w.stride), Fraction(w.extent - 1 - 2 * w.pad, 2)) for w in windows
    )
