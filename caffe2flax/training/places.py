"""Where the variables of a module come from: which of Caffe's blobs, and how."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.codegen.arrangement import is_whole, view_of
from caffe2flax.conversion import Conversion
from caffe2flax.ir.graph import Node
from caffe2flax.ir.layer import Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.training.ways import Way, way_of, way_of_view

Array = NDArray[Any]
Key = tuple[int, int]
"""A blob: the number of the layer that owns it, and its place in that layer."""

BATCHNORM = ("mean", "var", "factor")
STATISTICS = {*BATCHNORM, ""}
"""Blobs of a BatchNorm that it computes itself; "" is one that Flax does without."""


class Place(NamedTuple):
    """Where a variable comes from: its blobs, and how it becomes the one of them that
    it is a permutation of."""

    sources: frozenset[Key]
    shape: Shape
    way: Way | None = None
    divisor: Key | None = None


def statistics(layer: Layer) -> list[int]:
    """Which blobs of a layer it computes itself."""
    if layer.type != "BatchNorm":
        return []
    names = layer.names() or BATCHNORM
    return [i for i, name in enumerate(names) if name in STATISTICS]


def places(conversion: Conversion) -> dict[str, Place]:
    """Where each variable of the module comes from, by its path."""
    module = conversion.module
    found: dict[str, Place] = {}
    for node in conversion.graph.nodes:
        attribute = module.attributes.get(node.number)
        if attribute is None or not node.weights:
            continue
        tied = module.tied.get(node.number, ())
        for variable, place in _of_node(node, module.sites[node.number]):
            if variable not in tied:
                found.setdefault(f"{attribute}.{variable}", place)
    return found


def _of_node(node: Node, site: Site) -> Iterator[tuple[str, Place]]:
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
            yield variable, Place(source, shape, way_of_view(array))
        else:
            yield variable, Place(source, shape)
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
            yield variable, Place(frozenset(_sources(node, site, variable)), shape)
            continue
        index, order = found
        divisor = keys[ones[0]] if variable not in moved and ones else None
        source = frozenset({keys[index]})
        yield variable, Place(source, shape, way_of(order), divisor)


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
