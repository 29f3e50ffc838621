"""The last layer of DetectNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.layers._python import python_layer

ROWS = 50
Box = tuple[int, int, int, int]
"""Corner, width and height."""
NAMES = (
    "width",
    "height",
    "stride",
    "coverage threshold",
    "rectangle threshold",
    "eps",
    "min height",
)


@dataclass(frozen=True, slots=True)
class ClusterDetections(Layer):
    """For each class rows (x1, y1, x2, y2, log(members)) of the means of groups of
    similar boxes."""

    bottoms = 2
    tops = (1, None)
    in_place = False

    size: tuple[int, int]
    """Width and height of the image."""
    stride: int
    coverage: float
    threshold: int
    eps: float
    min_height: int
    classes: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        """How many cells the image is wide and high."""
        return self.size[0] // self.stride, self.size[1] // self.stride

    @property
    def cell(self) -> tuple[int, int]:
        return self.size[0] // self.grid[0], self.size[1] // self.grid[1]

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        coverage, boxes = inputs
        fits = len(coverage) == 4 and boxes == (coverage[0], 4, *coverage[2:])
        if not fits or coverage[1] != self.classes:
            raise ConversionError(
                f"needs coverage (N, {self.classes}, H, W) and boxes (N, 4, H, W), not "
                f"{coverage} and {boxes}"
            )
        return ((coverage[0], ROWS, 5),) * self.classes

    def layouts(self, *inputs: Operand) -> Layouts:
        last = Layout.channels_last(4)
        return Layouts((last, last), (Layout.caffe(3),) * self.classes)

    def call(self, at: Site) -> str:
        given = arguments(
            *at.args,
            cell=literal(self.cell),
            grid=literal(self.grid),
            coverage_threshold=literal(self.coverage),
            group_threshold=self.threshold,
            eps=literal(self.eps),
            min_height=self.min_height,
        )
        return f"cluster_boxes({given})" + ("[0]" if self.classes == 1 else "")

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        coverage, boxes = inputs
        tops = []
        for number in range(self.classes):
            top = np.zeros((len(boxes), ROWS, 5))
            for image in range(len(boxes)):
                rows = self._grouped(coverage[image, number], boxes[image])
                for i, row in enumerate(rows[:ROWS]):
                    top[image, i] = np.array(row, np.float16)
            tops.append(top)
        return tuple(tops) if self.classes > 1 else tops[0]

    def _grouped(self, coverage: Array, boxes: Array) -> list[tuple[float, ...]]:
        found: list[Box] = []
        width, height = self.grid
        for y, x in np.argwhere(coverage[:height, :width] >= np.float32(self.coverage)):
            x1, y1, x2, y2 = boxes[:, y, x]
            left, up = x1 + x * self.cell[0], y1 + y * self.cell[1]
            found.append((int(left), int(up), int(x2 - x1), int(y2 - y1)))
        means = [self._mean(group) for group in self._groups(found)]
        large = [mean for mean in means if mean[1] > self.threshold]
        return [
            (*box[:2], box[0] + box[2], box[1] + box[3], log(members))
            for box, members in large
            if box[3] >= self.min_height
            and not any(
                self._inside(box, other) and (more > max(3, members) or members < 3)
                for other, more in large
                if other is not box
            )
        ]

    def _groups(self, found: list[Box]) -> list[list[Box]]:
        """Boxes that are similar, and those similar to them, in the order of the first
        of each group."""
        left, groups = list(range(len(found))), []
        while left:
            group = [left.pop(0)]
            for i in group:
                near = [j for j in left if self._similar(found[i], found[j])]
                left = [j for j in left if j not in near]
                group += near
            groups.append([found[i] for i in group])
        return groups

    def _similar(self, a: Box, b: Box) -> bool:
        delta = self.eps * (min(a[2], b[2]) + min(a[3], b[3])) * 0.5
        sides = (a[0] - b[0], a[1] - b[1])
        ends = (a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3])
        return all(abs(value) <= delta for value in (*sides, *ends))

    def _mean(self, group: list[Box]) -> tuple[Box, int]:
        sums = np.sum(group, 0).astype(np.float32)
        x, y, w, h = np.rint(sums * (np.float32(1) / np.float32(len(group)))).astype(
            int
        )
        return (x, y, w, h), len(group)

    def _inside(self, a: Box, b: Box) -> bool:
        right, down = round(b[2] * self.eps), round(b[3] * self.eps)
        return (
            a[0] >= b[0] - right
            and a[1] >= b[1] - down
            and a[0] + a[2] <= b[0] + b[2] + right
            and a[1] + a[3] <= b[1] + b[3] + down
        )


@python_layer("caffe.layers.detectnet.clustering", "ClusterDetections")
def _cluster_detections(params: Params) -> Layer:
    words = [word.strip() for word in params.get("param_str", "").split(",")]
    try:
        fractions = [float(words[i]) for i in (3, 5)]
        whole = [int(words[i]) for i in (0, 1, 2, 4, 6)] + [int(w) for w in words[7:]]
    except (ValueError, IndexError):
        fractions, whole = [], []
    low = any(number < 1 for number in whole[:4] + whole[5:]) or not whole
    right = not low and all(0 <= number < float("inf") for number in fractions)
    if not right or len(words) > 8 or min(whole[:2]) < whole[2] or max(whole) > 2**20:
        params.error(
            "param_str",
            f"param_str has {', '.join(NAMES)}, and classes where they are not 1, all "
            "positive, with commas between them; the image is one stride large at "
            "least",
        )
        return ClusterDetections((1, 1), 1, 0, 1, 0, 0, params.tops)
    width, height, stride, threshold, least, *rest = whole
    classes = rest[0] if rest else 1
    if params.tops != classes:
        text = f"a top for each of {classes} classes is needed, not {params.tops}"
        params.error("param_str", text)
    size = (width, height)
    parsed = ClusterDetections(
        size, stride, fractions[0], threshold, fractions[1], least, params.tops
    )
    if any(s % g for s, g in zip(size, parsed.grid, strict=True)):
        params.ambiguous(
            "param_str",
            f"{parsed.grid} cells of {stride} pixels do not fill {width} x {height}: "
            "in Python 2 the layer takes another size of a cell than in Python 3",
        )
    params.note(
        f"{params.span()}: ClusterDetections as in NVIDIA's Caffe 0.17; earlier ones "
        "group boxes by their corners alone"
    )
    return parsed
