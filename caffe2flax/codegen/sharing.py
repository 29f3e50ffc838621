"""Parameters that several layers share: held by one module, seen by the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Node, Weight
from caffe2flax.ir.layer import Site

Indices = NDArray[np.integer[Any]]


class _Owner(NamedTuple):
    attribute: str
    variable: str
    places: Indices | None
    """The place in Caffe's blob of every entry of the variable; None where the variable
    is made of more than that, or not at all."""


@dataclass(slots=True)
class Ties:
    """The modules so far, with the shared weights that each holds."""

    uses: Mapping[Weight, int]
    owners: dict[Weight, _Owner] = field(default_factory=dict)

    def arrangement(self, node: Node, site: Site) -> object:
        """What must be equal, too, in modules that are one: how shared blobs become
        variables. A square matrix and its transpose differ in nothing else."""
        if all(self.uses[weight] == 1 for weight in node.weights):
            return None
        blobs, start = [], 1.0
        for weight in node.weights:
            size = prod(weight.shape)
            blobs.append(
                start + np.arange(size, dtype=np.float64).reshape(weight.shape)
            )
            start += size
        made = node.layer.weights(blobs, site)
        return tuple((name, _digest(np.asarray(x))) for name, x in made.items())

    def add(self, node: Node, site: Site, attribute: str) -> dict[str, str]:
        """For the module `attribute`, expressions of its variables that others hold.

        Raises ConversionError where a variable is no rearrangement of the blob alone.
        """
        views = {}
        for i, weight in enumerate(node.weights):
            if self.uses[weight] == 1:
                continue
            names = node.layer.names()
            name = names[i] if i < len(names) else ""
            places = _places(node, site, i, name) if name else None
            owner = self.owners.setdefault(weight, _Owner(attribute, name, places))
            if owner.attribute == attribute and owner.variable == name:
                continue
            if owner.places is None or places is None:
                raise _refused(node, weight, i)
            view = rearrangement(owner.places, places)
            if view is None:
                raise _refused(node, weight, i)
            views[name] = f"self.{owner.attribute}.{owner.variable}[...]{view}"
        return views


def _digest(array: NDArray[Any]) -> bytes:
    return sha256(array.tobytes()).digest()


def _places(node: Node, site: Site, index: int, name: str) -> Indices | None:
    """Where the entries of variable `name` stand in blob `index`; None where they do
    not come from this blob, each once."""
    blobs = [np.full(w.shape, -1, np.int64) for w in node.weights]
    size = blobs[index].size
    blobs[index] = np.arange(size).reshape(node.weights[index].shape)
    found = node.layer.weights(blobs, site).get(name)
    if found is None:
        return None
    made = np.asarray(found)
    if made.size != size or made.dtype.kind != "i":
        return None
    seen = np.zeros(size, bool)
    seen[made] = True
    return made if made.min() >= 0 and seen.all() else None


def _refused(node: Node, weight: Weight, index: int) -> ConversionError:
    text = (
        f"layer {node.name!r} shares its blob {index} with layer {weight.layer!r}, but "
        f"a {node.layer.type} layer can share it only with its equal in all blobs"
    )
    return ConversionError(Problem(text, node.span))


def rearrangement(source: Indices, target: Indices) -> str | None:
    """`_direct`, or by way of the blob's own order."""
    view = _direct(source, target)
    if view is not None:
        return view
    between = np.arange(source.size)
    back, on = _direct(source, between), _direct(between, target)
    return None if back is None or on is None else back + on


def _direct(source: Indices, target: Indices) -> str | None:
    """What turns an array whose entries came from the places `source` into `target`:
    `.T`, `.reshape(...)`, `.transpose(...)`, a chain of these; None where none does."""
    where = np.empty(source.size, np.int64)
    where[source.ravel()] = np.arange(source.size)
    index = where[target.ravel()]
    if np.array_equal(index, np.arange(index.size)):
        same = source.shape == target.shape
        return "" if same else f".reshape({_bare(target.shape)})"
    if source.ndim == 2 and target.shape == source.shape[::-1]:
        wanted = np.arange(index.size).reshape(source.shape).T
        if np.array_equal(index.reshape(target.shape), wanted):
            return ".T"
    factors = _factors(index)
    if factors is None:
        return None
    dims, axes = factors
    view = f".transpose({_bare(axes)})"
    if dims != source.shape:
        view = f".reshape({_bare(dims)}){view}"
    if tuple(dims[axis] for axis in axes) != target.shape:
        view += f".reshape({_bare(target.shape)})"
    return view


def _factors(index: Indices) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(dims, axes) with arange(n).reshape(dims).transpose(axes).ravel() == index."""
    size, done = index.size, 1
    found: list[tuple[int, int]] = []
    while done < size:
        steps = index[::done][: size // done]
        stride = int(steps[1] - steps[0])
        if stride <= 0:
            return None
        straight = steps == steps[0] + stride * np.arange(len(steps))
        extent = len(steps) if straight.all() else int(np.argmin(straight))
        extent = _largest_divisor(size // done, extent)
        if extent == 1:
            return None
        found.append((stride, extent))
        done *= extent
    by_target = found[::-1]
    by_source = sorted(by_target, reverse=True)
    dims = tuple(extent for _, extent in by_source)
    axes = tuple(by_source.index(factor) for factor in by_target)
    if prod(dims) != size:
        return None
    again = np.arange(size).reshape(dims).transpose(axes).ravel()
    return (dims, axes) if np.array_equal(again, index) else None


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)


def _bare(values: tuple[int, ...]) -> str:
    """A tuple as the arguments of a call."""
    return literal(values)[1:-1].rstrip(",")
