"""Where the pixels of a top lie in the bottom, for rows and for columns."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from caffe2flax.ir.layer import Placing
from caffe2flax.ir.window import Window


def shrinking(windows: Iterable[Window]) -> Placing:
    """Of a convolution or a pooling."""
    return tuple(
        (Fraction(1, w.stride), Fraction(2 * w.pad + 1 - w.extent, 2 * w.stride))
        for w in windows
    )


def growing(windows: Iterable[Window]) -> Placing:
    """Of a deconvolution."""
    return tuple(
        (Fraction(w.stride), Fraction(w.extent - 1 - 2 * w.pad, 2)) for w in windows
    )
