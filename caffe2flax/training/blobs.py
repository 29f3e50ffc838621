"""Caffe's learnable blobs, and the variables of the module that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir.graph import Graph, Node
from caffe2flax.ir.layout import Shape
from caffe2flax.training.places import Key, Place, places, statistics
from caffe2flax.training.ways import Way


@dataclass(frozen=True, slots=True)
class LearnableBlob:
    """A weight blob as Caffe's solver knows it.

    layer, index: where it stands in the net, first of all where layers share it.
    shape: in Caffe's axis order. variable: `conv1.kernel`, the variable that is a
    permutation of it, "" where none is; `way` is how that becomes the blob.
    divisor: the blob that Caffe divides it by when it reads a file, BatchNorm's factor,
    where the variable is the quotient. statistic: whether a BatchNorm computes it.
    Caffe does not change it by gradient, and where no variable holds it, it is 1.
    """

    layer: str
    index: int
    owner: int
    shape: Shape
    lr_mult: float
    decay_mult: float
    span: Span
    variable: str = ""
    variable_shape: Shape = ()
    way: Way | None = None
    divisor: Key | None = None
    statistic: bool = False

    @property
    def key(self) -> Key:
        return self.owner, self.index


def learnable_blobs(conversion: Conversion) -> tuple[LearnableBlob, ...]:
    """The blobs that Caffe's solver has, in its order: layers in the order of the net,
    blobs in that of the layer, shared ones once.

    That is the order of the history in a solver state. The statistics of BatchNorm are
    among them.
    """
    graph = conversion.graph
    rates, statistics = _rates(graph), _statistics(graph)
    holders: dict[Key, tuple[str, Place]] = {}
    for name, place in places(conversion).items():
        if place.way is not None:
            holders.setdefault(next(iter(place.sources)), (name, place))
    found: dict[Key, LearnableBlob] = {}
    for part in _parts(graph):
        for weight in part.weights:
            key = weight.owner, weight.index
            if key in found or weight.owner != part.number:
                continue
            lr_mult, decay_mult = (0.0, 0.0) if key in statistics else rates[key]
            blob = LearnableBlob(
                weight.layer,
                weight.index,
                weight.owner,
                weight.shape,
                lr_mult,
                decay_mult,
                part.span,
                statistic=key in statistics,
            )
            found[key] = _held(blob, *holders[key]) if key in holders else blob
    return tuple(found[key] for key in sorted(found))


def _held(blob: LearnableBlob, name: str, place: Place) -> LearnableBlob:
    return replace(
        blob,
        variable=name,
        variable_shape=place.shape,
        way=place.way,
        divisor=place.divisor,
    )


def multipliers(conversion: Conversion) -> dict[str, tuple[float, float]]:
    """`lr_mult` and `decay_mult` of each variable of the module, by its path
    (`conv1.kernel`), as the net's `param` messages say; 1 and 1 where they do not.

    Those of BatchNorm's statistics are 0 and 0. Raises ConversionError where a variable
    is made of blobs that are trained differently.
    """
    rates = {b.key: (b.lr_mult, b.decay_mult) for b in learnable_blobs(conversion)}
    spans = {part.number: part.span for part in _parts(conversion.graph)}
    found: dict[str, tuple[float, float]] = {}
    problems = []
    for name, place in places(conversion).items():
        pairs = sorted({rates[key] for key in place.sources})
        if len(pairs) > 1:
            shown = ", ".join(f"{lr} and {decay}" for lr, decay in pairs)
            text = f"{name} is made of blobs with several lr_mult and decay_mult: "
            owner = min(place.sources)[0]
            problems.append(Problem(text + shown, spans.get(owner)))
        found[name] = pairs[0]
    if problems:
        raise ConversionError(problems)
    return found


def _parts(graph: Graph) -> list[Node]:
    """The layers of the net that have weights, in its order."""
    parts = [part for node in graph.nodes for part in node.layers if part.weights]
    return sorted(parts, key=lambda part: part.number)


def _rates(graph: Graph) -> Mapping[Key, tuple[float, float]]:
    """lr_mult and decay_mult of each blob: of a shared one, what the first layer says
    that says anything."""
    given: dict[tuple[Key, str], float] = {}
    keys: dict[Key, None] = {}
    for part in _parts(graph):
        for i, weight in enumerate(part.weights):
            key = weight.owner, weight.index
            keys[key] = None
            for what in ("lr_mult", "decay_mult"):
                value = getattr(part.specs[i], what) if i < len(part.specs) else None
                if value is not None:
                    given.setdefault((key, what), value)
    return {
        key: (given.get((key, "lr_mult"), 1.0), given.get((key, "decay_mult"), 1.0))
        for key in keys
    }


def _statistics(graph: Graph) -> frozenset[Key]:
    return frozenset(
        (part.weights[i].owner, part.weights[i].index)
        for part in _parts(graph)
        for i in statistics(part.layer)
    )
