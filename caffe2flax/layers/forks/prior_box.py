"""The prior boxes of SSD detectors, and of those that came after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from caffe2flax.ir.abilities import SeveralMeanings
from caffe2flax.ir.call import literal, unless
from caffe2flax.ir.layer import Layer, Site
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._priors import Box, Grid, Priors, SizedPriors

FACES = (32, 64, 128)
"""The sizes of the first level of FaceBoxes."""


@layer("PriorBox", "prior_box_param")
@dataclass(frozen=True, slots=True)
class PriorBox(Priors, SeveralMeanings):
    """Boxes of these sizes and ratios around each cell of a feature map.

    (1, 2, H * W * boxes * 4): corners as shares of the image, then their variances.
    """

    min_sizes: tuple[float, ...]
    grid: Grid
    max_sizes: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    """Besides 1: each once, and without inverses that `flip` adds."""
    flip: bool = True
    halved: bool = False
    denser: bool = False
    """TextBoxes: each box twice, the second time around the lower edge of its cell."""
    others: tuple[tuple[str, Priors], ...] = ()
    """What it is in forks that say so nowhere in the file."""

    @classmethod
    def parse(cls, params: Params) -> Layer:
        for name in ("tf", "yx_order", "keras"):
            if params.get(name, False):
                params.unsupported(
                    name, "boxes in TensorFlow's order are not supported"
                )
        if params.has("box_width") or params.has("box_height"):
            params.ignore("min_size", "max_size", "aspect_ratio", "flip")
            return SizedPriors.read(params, "box_width", "box_height")
        plain = cls._read(params)
        if not all(map(_fits_int, plain.min_sizes)):
            return plain  # an error already
        if params.get("faceboxes", False):
            return plain._of_faces(params)
        chosen = params.dialect("PriorBox")
        if chosen == "faceboxes":
            return plain._of_faces(params)
        if chosen == "textboxes":
            return plain._of_texts(params)
        if chosen == "ssd" or plain.denser or params.has("denser_prior_boxes"):
            return plain
        others: list[tuple[str, Priors]] = []
        if plain.min_sizes and not plain.max_sizes and not plain.ratios:
            others.append(
                ("faceboxes", FacePriors(_whole(plain.min_sizes), plain.grid))
            )
        fields = ("step", "step_h", "step_w", "offset", "img_size", "img_h", "img_w")
        if len(plain.min_sizes) == 1 and not any(map(params.has, fields)):
            others.append(("textboxes", plain._of_texts(params)))
        return replace(plain, others=tuple(others))

    @classmethod
    def _read(cls, params: Params) -> Self:
        # Caffe stores sizes as C++ ints when it computes the boxes.
        given = params.all("min_size", float), params.all("max_size", float)
        low, high = given
        if not low:
            params.missing("min_size", "PriorBox needs min_size")
        for name, sizes in zip(("min_size", "max_size"), given, strict=True):
            if not all(map(_fits_int, sizes)):
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
        return cls(
            low,
            Grid.parse(params),
            high,
            _distinct(ratios, flip),
            flip,
            params.get("reduce_boxes", False),
            params.get("denser_prior_boxes", False),
        )

    def _of_faces(self, params: Params) -> FacePriors:
        faces = FacePriors(_whole(self.min_sizes), self.grid)
        if self.max_sizes or self.ratios:
            params.error(None, "FaceBoxes has neither max_size nor aspect_ratio")
        wanted = 21 if len(self.min_sizes) == 3 else len(self.min_sizes)
        if self.min_sizes and len(faces.boxes(1.0)) != wanted:
            params.error(
                "min_size",
                "FaceBoxes has three sizes, 32 and 64 among them, or none of these two",
            )
        return faces

    def _of_texts(self, params: Params) -> Self:
        """TextBoxes' layer, whose boxes are cut off unless the file says otherwise."""
        grid = replace(self.grid, clip=params.get("clip", True))
        return replace(self, grid=grid, denser=True)

    def meanings(self) -> Mapping[str, Layer]:
        return dict(self.others)

    def looks_like(self) -> Sequence[str]:
        names = [name for name, _ in self.others]
        faces = _whole(self.min_sizes) == FACES and "faceboxes" in names
        return ("faceboxes",) if faces else ()

    def boxes(self, step: float) -> list[Box]:
        shifts = (0.0, (1 - self.grid.offset) * step) if self.denser else (0.0,)
        return [(*size, 0, shift) for size in self._sizes() for shift in shifts]

    def call(self, at: Site) -> str:
        return self.written(
            at,
            "prior_boxes",
            min_sizes=literal(_whole(self.min_sizes)),
            max_sizes=unless(_whole(self.max_sizes), ()),
            aspect_ratios=unless(self.ratios, ()),
            flip=unless(self.flip and bool(self.ratios), False),
            halve_smallest=unless(self.halved, False),
            denser=unless(self.denser, False),
        )

    def _sizes(self) -> list[tuple[float, float]]:
        """Width and height of the boxes of a cell, in Caffe's order."""
        sizes: list[tuple[float, float]] = []
        for i, low in enumerate(_whole(self.min_sizes)):
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


@dataclass(frozen=True, slots=True)
class FacePriors(Priors):
    """Squares of FaceBoxes around each cell of a feature map, one pixel smaller than
    their size: that of 32 in 4 x 4 places, that of 64 in 2 x 2.

    (1, 2, H * W * boxes * 4): corners as shares of the image, then their variances.
    """

    sizes: tuple[int, ...]
    grid: Grid

    def boxes(self, step: float) -> list[Box]:
        boxes: list[Box] = []
        for size in self.sizes:
            places = {32: (-16, -8, 0, 8), 64: (-16, 0)}.get(size, (0,))
            boxes += [(size - 1, size - 1, x, y) for y in places for x in places]
        return boxes

    def call(self, at: Site) -> str:
        return self.written(at, "face_boxes", sizes=literal(self.sizes))


def _fits_int(size: float) -> bool:
    return 0 < size < 2**31


def _whole(sizes: Sequence[float]) -> tuple[int, ...]:
    return tuple(int(size) for size in sizes)


def _distinct(ratios: Sequence[float], flip: bool) -> tuple[float, ...]:
    """Ratios besides 1, each once."""
    seen, kept = [1.0], []
    for ratio in ratios:
        if all(abs(ratio - other) >= 1e-6 for other in seen):
            seen += [ratio, 1 / ratio] if flip else [ratio]
            kept.append(ratio)
    return tuple(kept)
