"""Where a net's blobs come from: inputs of the generated module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.errors import ConversionError
from caffe2flax.layout import Shape
from caffe2flax.params import Params
from caffe2flax.registry import Array, Layer, Site, layer


class Source(Layer):
    """A layer whose tops the caller of the module provides."""

    __slots__ = ()

    bottoms = 0
    tops = (1, None)
    source = True

    def call(self, at: Site) -> str:
        raise AssertionError("a source is an argument of the module, not a call")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("a source is fed, not computed")


def blob_shape(params: Params) -> Shape:
    """A BlobShape message."""
    dims = params.all("dim", int)
    for dim in dims:
        if dim < 0:
            params.error("dim", f"dim {dim} is negative")
    return dims


@layer("Input", "input_param")
@dataclass(frozen=True, slots=True)
class Input(Source):
    """An argument of the module."""

    shapes: tuple[Shape, ...] = ()
    count: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        shapes = tuple(blob_shape(shape) for shape in params.subs("shape"))
        if len(shapes) not in (0, 1, params.tops):
            params.error(
                "shape",
                f"{len(shapes)} shapes for {params.tops} tops: give 1 or one each",
            )
        return cls(shapes, params.tops)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if not self.shapes:
            raise ConversionError(
                "the input has no shape; give one with --input-shape BLOB=N,C,H,W"
            )
        return (
            self.shapes if len(self.shapes) == self.count else self.shapes * self.count
        )
