"""The prior boxes of SSD detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np

from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import four_axes


@layer("PriorBox", "prior_box_param")
@dataclass(frozen=True, slots=True)
class PriorBox(Layer):
    """Boxes of these sizes and ratios around each cell of a feature map.

    (1, 2, H * W * boxes * 4): corners as shares of the image, then their variances.
    """

    bottoms = 2
    in_place = False

    min_sizes: tuple[float, ...]
    max_sizes: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    """Besides 1: each once, and without inverses that `flip` adds."""
    flip: bool = True
    clip: bool = False
    variances: tuple[float, ...] = (0.1,)
    image: tuple[int, int] | None = None
    step: tuple[float, float] | None = None
    offset: float = 0.5
    halved: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        # Caffe stores sizes as C++ ints when it computes the boxes.
        given = params.all("min_size", float), params.all("max_size", float)
        low, high = given
        if not low:
            params.missing("min_size", "PriorBox needs min_size")
        for name, sizes in zip(("min_size", "max_size"), given, strict=True):
            if not all(0 < size < 2**31 for size in sizes):
                params.error(name, f"{name} must be positive: {sizes}")
            elif any(size != int(size) for size in sizes):
                text = f"{params.span(name)}: Caffe cuts {name} to whole pixels: "
                params.note(text + ", ".join(f"{size:g}" for size in sizes))
        if high and len(high) != len(low):
            text = f"{len(high)} max_size for {len(low)} min_size: give one each"
            params.error("max_size", text)
        elif any(h <= w for w, h in zip(low, high, strict=False)):
            params.error("max_size", "max_size must be greater than min_size")
        ratios = params.all("aspect_ratio", float)
        if not all(0 < ratio < float("inf") for ratio in ratios):
            params.error("aspect_ratio", f"aspect_ratio must be positive: {ratios}")
            ratios = ()
        flip = params.get("flip", True)
        variances = params.all("variance", float) or (0.1,)
        if len(variances) not in (1, 4) or not all(v > 0 for v in variances):
            params.error("variance", f"give 1 or 4 positive variances, not {variances}")
        return cls(
            low,
            high,
            _distinct(ratios, flip),
            flip,
            params.get("clip", False),
            variances,
            _pair(params, "img", "img_size", int),
            _pair(params, "step", "step", float),
            params.get("offset", 0.5),
            params.get("reduce_boxes", False),
        )

    @property
    def boxes(self) -> int:
        """The number of boxes of a cell."""
        others = len(self.ratios) * (2 if self.flip else 1)
        return len(self.min_sizes) * (others + 1) + len(self.max_sizes)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        *_, height, width = four_axes(inputs[0])
        four_axes(inputs[1])
        return ((1, 2, height * width * self.boxes * 4),)

    def layouts(self, *inputs: Operand) -> Layouts:
        # Only the shapes of the bottoms are used.
        return Layouts(tuple(x.layout for x in inputs), (Layout.caffe(3),))

    def call(self, at: Site) -> str:
        image = literal(self.image) if self.image else _size(at, 1)
        return "prior_boxes({})".format(
            arguments(
                _size(at, 0),
                image,
                min_sizes=literal(tuple(int(size) for size in self.min_sizes)),
                max_sizes=unless(tuple(int(size) for size in self.max_sizes), ()),
                aspect_ratios=unless(self.ratios, ()),
                variances=literal(self.variances),
                step=unless(self.step, None),
                offset=unless(self.offset, 0.5),
                flip=unless(self.flip and bool(self.ratios), False),
                inside=unless(self.clip, False),
                halve_smallest=unless(self.halved, False),
            )
        )

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        *_, height, width = four_axes(inputs[0].shape)
        *_, image_height, image_width = four_axes(inputs[1].shape)
        if self.image:
            image_height, image_width = self.image
        step_h, step_w = self.step or (image_height / height, image_width / width)
        rows = []
        for h in range(height):
            for w in range(width):
                x, y = (w + self.offset) * step_w, (h + self.offset) * step_h
                for box_w, box_h in self._sizes():
                    rows.append([x - box_w / 2, y - box_h / 2])
                    rows.append([x + box_w / 2, y + box_h / 2])
        corners = np.array(rows) / [image_width, image_height]
        if self.clip:
            corners = corners.clip(0, 1)
        variances = np.resize(np.array(self.variances), corners.size)
        return np.stack([corners.ravel(), variances])[None]

    def _sizes(self) -> list[tuple[float, float]]:
        """Width and height of the boxes of a cell, in Caffe's order."""
        sizes: list[tuple[float, float]] = []
        for i, low in enumerate(int(size) for size in self.min_sizes):
            sizes.append((low / 2, low / 2) if self.halved else (low, low))
            if self.max_sizes:
                middle = (low * int(self.max_sizes[i])) ** 0.5
                sizes.append((middle, middle))
            for ratio in self.ratios:
                root = ratio**0.5
                sizes.append((low * root, low / root))
                if self.flip:
                    sizes.append((low / root, low * root))
        return sizes


def _distinct(ratios: Sequence[float], flip: bool) -> tuple[float, ...]:
    """Ratios besides 1, each once."""
    seen, kept = [1.0], []
    for ratio in ratios:
        if all(abs(ratio - other) >= 1e-6 for other in seen):
            seen += [ratio, 1 / ratio] if flip else [ratio]
            kept.append(ratio)
    return tuple(kept)


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
