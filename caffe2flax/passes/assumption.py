"""Inputs whose size only their data tells: sizes that the net can take.

Data layers read from databases and lists of images, which are not opened. Where neither
the net nor the caller tells their size, a usual one stands for it that every layer, and
every weight of the files, can take. Modules refuse to be called with another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

from caffe2flax.errors import Problem, UnknownShape
from caffe2flax.ir.abilities import Windowed
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Shape

STORED = ((3, 32, 32), (1, 28, 28))
"""(C, H, W) of images that databases often hold as they are, not to be cropped."""

IMAGES = (
    *((3, size, size) for size in (224, 227)),
    (3, 360, 480),
    *((3, size, size) for size in (321, 448, 300, 512, 64, 32)),
    (3, 112, 96),
    (1, 28, 28),
    *((1, size, size) for size in (32, 64, 224)),
)
"""(C, H, W) of other images, the likeliest first."""


VECTOR = (100,)
"""What an item is where it need not be an image."""

SIZES = (3, 4)
"""Numbers that tell the size of an image: height, width and scale, or a scale each."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An input whose shape is not known: what is, and the top of its layer it is."""

    value: Value
    node: Node
    top: int
    error: UnknownShape

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.node.fail(self.error).problems

    @property
    def line(self) -> bool:
        """Whether it is a line of numbers for each image, not known how many."""
        return len(self.error.known) == 2

    @property
    def stored(self) -> bool:
        """Whether not even the channels of images are known."""
        return len(self.error.known) == 4 and not self.error.known[1]


def guesses(
    graph: Graph, unknown: Iterable[Unknown], known: Iterable[Shape] = ()
) -> Iterator[Mapping[Value, Shape]]:
    """Shapes for all of these, the likeliest first; `known` are those of the other
    inputs."""
    inputs = list(unknown)
    images = (*STORED, *IMAGES) if any(u.stored for u in inputs) else IMAGES
    labels: tuple[Shape | None, ...] = ((),)
    if any(u.error.more for u in inputs):
        labels = ((), (1,), None)
    vectors: tuple[bool, ...] = (False,)
    if any(u.error.more and not u.top for u in inputs):
        flat = not any(map(_is_windowed, graph.nodes))
        vectors = (flat, not flat)
    lines = SIZES if any(u.line for u in inputs) else SIZES[:1]
    batches: list[int] = [0]
    if any(u.error.more and u.top for u in inputs):
        # A layer of another phase tells of its own batch.
        batches += sorted({shape[0] for shape in known if shape})
    seen = []
    for batch, label, vector, line, image in product(
        batches, labels, vectors, lines, images
    ):
        first = VECTOR if vector else image
        other = image if label is None else label
        found = {
            u.value: (u.error.known[0], line)
            if u.line
            else _filled(u, image, first, other, batch)
            for u in inputs
        }
        if found not in seen:
            seen.append(found)
            yield found


def _is_windowed(node: Node) -> bool:
    return isinstance(node.layer, Windowed)


def _filled(
    unknown: Unknown, image: Shape, first: Shape, label: Shape, batch: int
) -> Shape:
    known = unknown.error.known
    if unknown.error.more:
        size = known[0] or 1
        return (batch or size, *label) if unknown.top else (size, *first)
    usual = (1, *image) if len(known) == 4 else (1, image[0], 16, *image[1:])
    return tuple(a or b for a, b in zip(known, usual, strict=False))


def agree(
    nodes: Iterable[Node], weight_shapes: Mapping[str, tuple[Shape, ...]]
) -> bool:
    """Whether the weight blobs of the files have as many numbers as those of the net;
    older files write them with more axes."""
    return all(
        prod(have) == prod(weight.shape)
        for node in nodes
        for weight, have in zip(
            node.weights, weight_shapes.get(node.name, ()), strict=False
        )
    )


def assumption_notes(
    graph: Graph, unknown: Iterable[Unknown], shapes: Mapping[Value, Shape]
) -> Iterator[str]:
    """A note on each input whose shape is assumed."""
    fit = ", which the weights fit" if graph.given.weight_shapes else ""
    return (
        f"{u.node.span}: {str(u.error.problems[0].message).partition(': give')[0]}; "
        f"taken to be {shapes[u.value]}{fit}, and the module takes no other: "
        f"--input-shape {u.value.blob}=... says otherwise"
        for u in unknown
    )
