"""Items of a batch selected by another blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import DataDependentShape
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


def _items_first(x: Operand) -> Layout:
    return x.layout if x.leads(1) else Layout.caffe(len(x.shape))


@layer("BatchReindex")
@dataclass(frozen=True, slots=True)
class BatchReindex(Layer):
    """y[i] = x[index[i]], with the second bottom as index."""

    bottoms = 2
    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape, index = inputs
        if len(index) != 1:
            raise ConversionError(f"the index must have 1 axis, not the shape {index}")
        if not shape:
            raise ConversionError("the first bottom has no axis of items")
        return ((*index, *shape[1:]),)

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        x, index = inputs
        return noise.integers(0, x[0], index) if bottom == 1 else None

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = _items_first(inputs[0])
        return Layouts((layout, Layout.caffe(1)), (layout,))

    def call(self, at: Site) -> str:
        return f"batch_reindex({', '.join(at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, index = inputs
        top: Array = x[index.astype(int)]
        return top


@layer("Filter")
@dataclass(frozen=True, slots=True)
class Filter(Layer, DataDependentShape):
    """The items for which the last bottom is not 0; their number depends on the
    data."""

    bottoms = (2, None)
    tops = (1, None)
    in_place = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.tops != params.bottoms - 1:
            text = f"{params.bottoms} bottoms, the last of them the selector, make "
            params.error(None, text + f"{params.bottoms - 1} tops, not {params.tops}")
        return cls()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        """The shapes with all items: an upper bound."""
        *shapes, selector = inputs
        if any(extent != 1 for extent in selector[1:]):
            text = f"the selector may have one axis that is not 1, not {selector}"
            raise ConversionError(text)
        if not selector or any(shape[:1] != selector[:1] for shape in shapes):
            raise ConversionError(
                f"bottoms of shapes {', '.join(map(str, shapes))} and a selector of "
                f"shape {selector} have not as many items each"
            )
        return tuple(shapes)

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """A random selection of about half of the items."""
        last = bottom == len(inputs) - 1
        return noise.integers(0, 2, inputs[-1]) if last else None

    def layouts(self, *inputs: Operand) -> Layouts:
        *blobs, selector = inputs
        layouts = tuple(map(_items_first, blobs))
        return Layouts((*layouts, Layout.caffe(len(selector.shape))), layouts)

    def call(self, at: Site) -> str:
        *blobs, selector = at.args
        if len(blobs) == 1:
            return f"jnp.take({blobs[0]}, jnp.flatnonzero({selector}), axis=0)"
        return f"filter_items({', '.join(at.args)})"

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        *given, selector = inputs
        kept = np.flatnonzero(selector)
        tops = tuple(x[kept] for x in given)
        return tops if len(tops) > 1 else tops[0]
