"""Caffe's learnable blobs, and the variables of the module that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.codegen.arrangement import is_whole, view_of
from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir.graph import Graph, Node
from caffe2flax.ir.layer import Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.training.ways import Way, way_of, way_of_view

Array = NDArray[Any]
Key = tuple[int, int]
"""A blob: the number of the layer that owns it, and its place in that layer."""

BATCHNORM = ("mean", "var", "factor")
STATISTICS = {*BATCHNORM, ""}
"""Blobs of a BatchNorm that it computes itself; "" is one that Flax does without."""


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


class _Place(NamedTuple):
    """Where a variable comes from: its blobs, and how it becomes the one of them that
    it is a permutation of."""

    sources: frozenset[Key]
    shape: Shape
    way: Way | None = None
    divisor: Key | None = None


def learnable_blobs(conversion: Conversion) -> tuple[LearnableBlob, ...]:
    """The blobs that Caffe's solver has, in its order: layers in the order of the net,
    blobs in that of the layer, shared ones once.

    That is the order of the history in a solver state. The statistics of BatchNorm are
    among them.
    """
    graph = conversion.graph
    rates, statistics = _rates(graph), _statistics(graph)
    holders: dict[Key, tuple[str, _Place]] = {}
    for name, place in _places(conversion).items():
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


def _held(blob: LearnableBlob, name: str, place: _Place) -> LearnableBlob:
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
    for name, place in _places(conversion).items():
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


def statistics(layer: Layer) -> list[int]:
    """Which blobs of a layer it computes itself."""
    if layer.type != "BatchNorm":
        return []
    names = layer.names() or BATCHNORM
    return [i for i, name in enumerate(names) if name in STATISTICS]


def _places(conversion: Conversion) -> dict[str, _Place]:
    """Where each variable of the module comes from, by its path."""
    module = conversion.module
    found: dict[str, _Place] = {}
    for node in conversion.graph.nodes:
        attribute = module.attributes.get(node.number)
        if attribute is None or not node.weights:
            continue
        tied = module.tied.get(node.number, ())
        for variable, place in _of_node(node, module.sites[node.number]):
            if variable not in tied:
                found.setdefault(f"{attribute}.{variable}", place)
    return found


def _of_node(node: Node, site: Site) -> Iterator[tuple[str, _Place]]:
    keys = [(weight.owner, weight.index) for weight in node.weights]
    # Memory that is never touched where the variables are views of it.
    blobs = [np.zeros(weight.shape, np.float32) for weight in node.weights]
    with np.errstate(all="ignore"):
        made = node.layer.weights(blobs, site)
    copied = []
    for variable, array in made.items():
        view = view_of(array, blobs)
        shape = tuple(array.shape)
        if view is None:
            copied.append(variable)
            continue
        source = frozenset({keys[view.blob]})
        if is_whole(view, blobs[view.blob].size):
            yield variable, _Place(source, shape, way_of_view(array))
        else:
            yield variable, _Place(source, shape)
    if not copied:
        return
    del blobs
    moved = _orders(node, site, _bits(node))
    whole = moved.keys() >= {*copied}
    divided = {} if whole else _orders(node, site, _numbers(node))
    ones = [i for i in statistics(node.layer) if node.weights[i].shape == (1,)]
    for variable in copied:
        shape = tuple(made[variable].shape)
        found = moved.get(variable) or divided.get(variable)
        if found is None:
            yield variable, _Place(frozenset(_sources(node, site, variable)), shape)
            continue
        index, order = found
        divisor = keys[ones[0]] if variable not in moved and ones else None
        source = frozenset({keys[index]})
        yield variable, _Place(source, shape, way_of(order), divisor)


def _orders(node: Node, site: Site, blobs: list[Array]) -> dict[str, tuple[int, Array]]:
    """For each variable that is a permutation of one of these numbered blobs: which,
    and the place in it of each entry."""
    found: dict[str, tuple[int, Array]] = {}
    ends = np.cumsum([0, *(prod(weight.shape) for weight in node.weights)])
    with np.errstate(all="ignore"):
        made = node.layer.weights(blobs, site)
    for variable, array in made.items():
        values = np.ascontiguousarray(array)
        if blobs[0].dtype == np.float64:
            with np.errstate(invalid="ignore"):
                places = values.astype(np.int64)
            known = bool((places == values).all())
        else:
            known = values.dtype == np.float32
            places = values.view(np.uint32).astype(np.int64) if known else values
        for i, (start, end) in enumerate(pairwise(ends)):
            size = int(end - start)
            if known and values.size == size and _is_permutation(places - start, size):
                found.setdefault(variable, (i, places - start))
    return found


def _is_permutation(order: Array, size: int) -> bool:
    if order.min(initial=0) < 0 or order.max(initial=0) >= size:
        return False
    seen = np.zeros(size, bool)
    seen[order] = True
    return bool(seen.all())


def _bits(node: Node) -> list[Array]:
    """Blobs whose entries are numbered in their bits: right for what is only moved."""
    sizes = [prod(weight.shape) for weight in node.weights]
    every = np.arange(sum(sizes), dtype=np.uint32).view(np.float32)
    return _split(node, every)


def _numbers(node: Node) -> list[Array]:
    """Blobs whose entries are numbered by their values, but for the factors of
    BatchNorm, which are 1: it divides by them."""
    sizes = [prod(weight.shape) for weight in node.weights]
    blobs = _split(node, np.arange(sum(sizes), dtype=np.float64))
    ones = statistics(node.layer)
    return [
        np.ones_like(blob) if i in ones and blob.size == 1 else blob
        for i, blob in enumerate(blobs)
    ]


def _split(node: Node, every: Array) -> list[Array]:
    ends = np.cumsum([0, *(prod(weight.shape) for weight in node.weights)])
    return [
        every[start:end].reshape(weight.shape)
        for (start, end), weight in zip(pairwise(ends), node.weights, strict=True)
    ]


def _sources(node: Node, site: Site, variable: str) -> list[Key]:
    """The blobs that a variable depends on."""
    found = []
    for i, weight in enumerate(node.weights):
        made = []
        for value in (1.0, 2.0):
            blobs = [np.ones(w.shape, np.float32) for w in node.weights]
            blobs[i][...] = value
            with np.errstate(all="ignore"):
                made.append(np.asarray(node.layer.weights(blobs, site)[variable]))
        before, after = made
        if not np.array_equal(before, after, equal_nan=True):
            found.append((weight.owner, weight.index))
    return found or [(weight.owner, weight.index) for weight in node.weights]
