"""What layers of prior boxes have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np

from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.layers._forks import four_axes

Box = tuple[float, float, float, float]
"""Width, height, and the centre from the middle of the cell, x and y."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells of a map lie in an image, and what each box is given along."""

    clip: bool = False
    variances: tuple[float, ...] = (0.1,)
    image: tuple[int, int] | None = None
    step: tuple[float, float] | None = None
    offset: float = 0.5

    @classmethod
    def parse(cls, params: Params) -> Self:
        variances = params.all("variance", float) or (0.1,)
        if len(variances) not in (1, 4) or not all(v > 0 for v in variances):
            params.error("variance", f"give 1 or 4 positive variances, not {variances}")
        return cls(
            params.get("clip", False),
            variances,
            _pair(params, "img", "img_size", int),
            _pair(params, "step", "step", float),
            params.get("offset", 0.5),
        )


class Priors(Layer):
    """Boxes around each cell of a feature map.

    (1, 2, H * W * boxes * 4): corners as shares of the image, then their variances.
    """

    __slots__ = ()

    bottoms = 2
    in_place = False

    grid: Grid

    @abstractmethod
    def boxes(self, step: float) -> list[Box]:
        """The boxes of a cell, which is `step` pixels high."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        *_, height, width = four_axes(inputs[0])
        four_axes(inputs[1])
        return ((1, 2, height * width * len(self.boxes(1.0)) * 4),)

    def layouts(self, *inputs: Operand) -> Layouts:
        # Only the shapes of the bottoms are used.
        return Layouts(tuple(x.layout for x in inputs), (Layout.caffe(3),))

    def written(self, at: Site, function: str, **options: object) -> str:
        """The call of a function of `ops/ssd.py`."""
        grid = self.grid
        image = literal(grid.image) if grid.image else _size(at, 1)
        given = arguments(
            _size(at, 0),
            image,
            **options,
            variances=literal(grid.variances),
            step=unless(grid.step, None),
            offset=unless(grid.offset, 0.5),
            inside=unless(grid.clip, False),
        )
        return f"{function}({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        *_, height, width = four_axes(inputs[0].shape)
        *_, image_height, image_width = four_axes(inputs[1].shape)
        grid = self.grid
        if grid.image:
            image_height, image_width = grid.image
        step_h, step_w = grid.step or (image_height / height, image_width / width)
        rows = []
        for h in range(height):
            for w in range(width):
                for box_w, box_h, right, down in self.boxes(step_h):
                    x = (w + grid.offset) * step_w + right
                    y = (h + grid.offset) * step_h + down
                    rows.append([x - box_w / 2, y - box_h / 2])
                    rows.append([x + box_w / 2, y + box_h / 2])
        corners = np.array(rows) / [image_width, image_height]
        if grid.clip:
            corners = corners.clip(0, 1)
        variances = np.resize(np.array(grid.variances), corners.size)
        return np.stack([corners.ravel(), variances])[None]


@dataclass(frozen=True, slots=True)
class SizedPriors(Priors):
    """Boxes of given widths and heights around each cell of a feature map.

    (1, 2, H * W * boxes * 4): corners as shares of the image, then their variances.
    """

    sizes: tuple[tuple[float, float], ...]
    grid: Grid

    @classmethod
    def read(cls, params: Params, width: str, height: str) -> Self:
        """From two repeated fields, whose numbers go together."""
        sides = params.all(width, float), params.all(height, float)
        if len(sides[0]) != len(sides[1]) or not sides[0]:
            text = f"give as many {width} as {height}, one or more: "
            params.error(None, f"{text}{len(sides[0])} and {len(sides[1])}")
        for name, values in zip((width, height), sides, strict=True):
            if not all(0 < value < float("inf") for value in values):
                params.error(name, f"{name} must be positive: {values}")
        return cls(tuple(zip(*sides, strict=False)), Grid.parse(params))

    def boxes(self, step: float) -> list[Box]:
        return [(width, height, 0, 0) for width, height in self.sizes]

    def call(self, at: Site) -> str:
        return self.written(at, "clustered_boxes", sizes=literal(self.sizes))


Number = TypeVar("Number", int, float)


def _pair(
    params: Params, stem: str, single: str, type_: type[Number]
) -> tuple[Number, Number] | None:
    """(height, width), from one field or two; None where neither is given."""
    both = params.optional(f"{stem}_h", type_), params.optional(f"{stem}_w", type_)
    one = params.optional(single, type_)
    if both == (None, None) and one is None:
        return None
    if one is not None and both != (None, None):
        params.error(single, f"give {single} or {stem}_h and {stem}_w, not both")
    height, width = both if one is None else (one, one)
    if height is None or width is None or height <= 0 or width <= 0:
        text = f"{single} must be positive, {stem}_h and {stem}_w both be given"
        params.error(None, text)
        return None
    return height, width


def _size(at: Site, index: int) -> str:
    """Source text of (height, width) of an input."""
    operand, x = at.inputs[index], at.operands[index]
    if len(operand.shape) < 4:
        return literal(four_axes(operand.shape)[2:])
    height, width = operand.layout.axes.index(2), operand.layout.axes.index(3)
    if width == height + 1:
        return f"{x}.shape[{height}:{width + 1 if width < 3 else ''}]"
    return f"({x}.shape[{height}], {x}.shape[{width}])"
