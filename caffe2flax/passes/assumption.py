"""Assumed shapes for inputs whose size only the data has.

Data layers read from databases and lists of images, which are not opened. Where neither
the net nor the caller gives their size, the first of some usual sizes is assumed that
suits every layer and every weight of the files. The module accepts no other size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from caffe2flax.errors import Problem, UnknownShape
from caffe2flax.ir.abilities import Windowed
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Shape
from caffe2flax.passes.labels import fit_labels
from caffe2flax.passes.unused import label_values
from caffe2flax.passes.walk import Shapes, walk

STORED = ((3, 32, 32), (1, 28, 28))
"""(C, H, W) of images that databases often contain and nets do not crop."""

IMAGES = (
    *((3, size, size) for size in (224, 227)),
    (3, 360, 480),
    *((3, size, size) for size in (321, 448, 300, 512, 64, 32)),
    (3, 112, 96),
    (1, 28, 28),
    *((1, size, size) for size in (32, 64, 224)),
)
"""(C, H, W) of other images, in the order in which they are tried."""


VECTOR = (100,)
"""The shape of an item that need not be an image."""

SIZES = (3, 4)
"""How many numbers describe the size of an image: height, width and one scale, or a
scale for each."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An input whose shape is not known: `error` has the known extents, `top` is its
    index among the tops of its layer."""

    value: Value
    node: Node
    top: int
    error: UnknownShape

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.node.fail(self.error).problems

    @property
    def line(self) -> bool:
        """Whether it is some numbers for each image, and how many is unknown."""
        return len(self.error.known) == 2

    @property
    def stored(self) -> bool:
        """Whether it is images of which even the channels are unknown."""
        return len(self.error.known) == 4 and not self.error.known[1]


def guesses(
    graph: Graph, unknown: Iterable[Unknown], known: Iterable[Shape] = ()
) -> Iterator[Mapping[Value, Shape]]:
    """Usual shapes for all `unknown` inputs together, in the order in which they are
    tried; `known` are the shapes of the other inputs."""
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
        # The batch may be that of another layer.
        batches += sorted({shape[0] for shape in known if shape})
    seen = []
    for batch, label, vector, line, image in product(
        batches, labels, vectors, lines, images
    ):
        first = VECTOR if vector else image
        other = image if label is None else label
        shapes = {
            u.value: (u.error.known[0], line)
            if u.line
            else _filled(u, image, first, other, batch)
            for u in inputs
        }
        if shapes not in seen:
            seen.append(shapes)
            yield shapes


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


def weights_fit(
    nodes: Iterable[Node], weight_shapes: Mapping[str, tuple[Shape, ...]]
) -> bool:
    """Whether the weight blobs of the files have as many elements as those of the net;
    in older files they have more axes."""
    return all(
        prod(have) == prod(weight.shape)
        for node in nodes
        for weight, have in zip(
            node.weights, weight_shapes.get(node.name, ()), strict=False
        )
    )


def assume(
    graph: Graph, shapes: Mapping[Value, Shape], unknown: Sequence[Unknown]
) -> Mapping[Value, Shape]:
    """Usual shapes for the inputs of unknown size; none where none suits the net.

    Those of labels follow from the layers that read them, where that is possible: so
    the other inputs are the same in both phases.
    """
    labels = label_values(graph)
    lacking = {u.value: u.error for u in unknown if u.value in labels and not u.line}
    others = [u for u in unknown if u.value not in lacking]
    if lacking:
        for guess in guesses(graph, others, shapes.values()) if others else [{}]:
            trial = {**shapes, **guess}
            if _suits(graph, trial):
                found = fit_labels(graph, trial, lacking)
                if found is not None:
                    return {**guess, **found}
    for guess in guesses(graph, unknown, shapes.values()):
        if _suits(graph, {**shapes, **guess}):
            return guess
    return {}


def _suits(graph: Graph, shapes: Shapes) -> bool:
    """Whether no layer and no weight has a problem. Fills `shapes`."""
    problems: list[Problem] = []
    nodes = walk(graph, shapes, problems)
    return not problems and weights_fit(nodes, graph.caller_shapes.weight_shapes)


def refit_labels(
    graph: Graph, shapes: Mapping[Value, Shape]
) -> tuple[Mapping[Value, Shape], tuple[str, ...]]:
    """Shapes for labels that do not suit the net with one number an item, as Caffe's
    own data layers read them, and notes; none where that is no remedy."""
    given = graph.caller_shapes.input_shapes
    labels = [v for v in graph.arguments if v in label_values(graph)]
    labels = [v for v in labels if v.blob not in given and len(shapes[v]) == 1]
    rest = {v: shapes[v] for v in graph.arguments if v not in labels}
    if not labels or not _suits(graph, rest):
        return {}, ()
    lacking = {v: UnknownShape("", shapes[v], more=True) for v in labels}
    found = fit_labels(graph, rest, lacking) or {}
    changed = [v for v, shape in found.items() if shape != shapes[v]]
    notes = (
        f"{v.blob}: taken to be {found[v]}, as the layers that read it need, and the "
        f"module takes no other; Caffe's own data layers give {shapes[v]}: "
        f"--input-shape {v.blob}=... says otherwise"
        for v in changed
    )
    return found, tuple(notes)


def assumption_notes(
    graph: Graph, unknown: Iterable[Unknown], shapes: Mapping[Value, Shape]
) -> Iterator[str]:
    """A note on each input whose shape is assumed."""
    fit = ", which the weights fit" if graph.caller_shapes.weight_shapes else ""
    return (
        f"{u.node.span}: {str(u.error.problems[0].message).partition(': give')[0]}; "
        f"taken to be {shapes[u.value]}{fit}, and the module takes no other: "
        f"--input-shape {u.value.blob}=... says otherwise"
        for u in unknown
        if u.value in shapes
    )
