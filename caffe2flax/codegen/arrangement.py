"""Where the entries of a variable stand in Caffe's blob, and views that lead from one
variable to another: by strides, so that no entry is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Node
from caffe2flax.ir.layer import Site
from caffe2flax.ir.layout import Merged, Shape

SMALL = 2**20
"""Entries of the blobs of a layer up to which they are numbered in float64, so that
what is computed of them differs where they do."""


class Factor(NamedTuple):
    """An axis of a view: its extent, and the step in the blob."""

    extent: int
    stride: int


class Arrangement(NamedTuple):
    """A variable that is a view of blob number `blob`, or, with `digest`, a copy of it.

    factors: the axes of the view in C order, those of one entry left out, those that
    are one made one. offset: the place of the first entry.
    """

    shape: Shape
    blob: int
    factors: tuple[Factor, ...] = ()
    offset: int = 0
    digest: bytes = b""


def arrangements(node: Node, site: Site) -> dict[str, Arrangement]:
    """How the variables of a node are made of its blobs; `blob` is -1 for those that
    are made of several, or computed."""
    # Memory that is never touched where all are views of it.
    blobs = [np.zeros(weight.shape, np.float32) for weight in node.weights]
    with np.errstate(all="ignore"):
        made = node.layer.weights(blobs, site)
    found = {name: view_of(variable, blobs) for name, variable in made.items()}
    copied = [name for name, view in found.items() if view is None]
    numbered = node.layer.weights(_numbered(node), site) if copied else {}
    for name in copied:
        array = np.ascontiguousarray(numbered[name])
        found[name] = Arrangement(array.shape, -1, digest=_digest(array))
    return {name: view for name, view in found.items() if view is not None}


def copied_from(
    node: Node, site: Site, index: int, name: str, size: int
) -> Arrangement | None:
    """The variable `name` where it is a copy of blob `index`, each entry once."""
    blobs = [np.full(w.shape, -1, np.int32).view(np.float32) for w in node.weights]
    shape = node.weights[index].shape
    blobs[index] = np.arange(size, dtype=np.uint32).view(np.float32).reshape(shape)
    with np.errstate(all="ignore"):
        found = node.layer.weights(blobs, site).get(name)
    made = np.ascontiguousarray(found)
    if made.size != size or made.dtype != np.float32:
        return None
    places = made.view(np.uint32)
    seen = np.zeros(size, bool)
    seen[places[places < size]] = True
    if not seen.all():
        return None
    return Arrangement(made.shape, index, digest=_digest(made))


def _numbered(node: Node) -> list[NDArray[Any]]:
    """Blobs of which no two entries are equal."""
    sizes = [prod(weight.shape) for weight in node.weights]
    total = sum(sizes)
    if total <= SMALL:
        every: NDArray[Any] = np.arange(1, total + 1, dtype=np.float64)
    else:
        every = np.arange(total, dtype=np.uint32).view(np.float32)
    ends = np.cumsum([0, *sizes])
    return [
        every[start:end].reshape(weight.shape)
        for (start, end), weight in zip(pairwise(ends), node.weights, strict=True)
    ]


def _digest(array: NDArray[Any]) -> bytes:
    return sha256(array.data.cast("B")).digest()


def view_of(
    variable: NDArray[Any] | Merged, blobs: Sequence[NDArray[Any]]
) -> Arrangement | None:
    """The arrangement of a view of one of `blobs`, contiguous arrays; None for what is
    no view of them."""
    array = variable.array if isinstance(variable, Merged) else np.asarray(variable)
    address = array.__array_interface__["data"][0]
    for i, blob in enumerate(blobs):
        if not np.may_share_memory(array, blob):
            continue
        start = blob.__array_interface__["data"][0]
        steps = [s // array.itemsize for s in array.strides]
        factors = map(Factor, array.shape, steps)
        offset = (address - start) // array.itemsize
        return Arrangement(tuple(variable.shape), i, _joined(factors), offset)
    return None


def is_whole(view: Arrangement, size: int) -> bool:
    """Whether every entry of a blob of `size` is in the variable, each once."""
    step = 1
    for factor in sorted(view.factors, key=lambda f: abs(f.stride)):
        if abs(factor.stride) != step:
            return False
        step *= factor.extent
    backwards = (f for f in view.factors if f.stride < 0)
    first = sum(-f.stride * (f.extent - 1) for f in backwards)
    return step == size and view.offset == first


def rearrangement(source: Arrangement, target: Arrangement) -> str | None:
    """What turns the variable `source` into `target`, both all of one blob: `.T`,
    `.reshape(...)`, `.transpose(...)`, a chain of these; None where none does."""
    if source.digest or target.digest:
        return "" if source == target else None
    view = _direct(source, target)
    if view is not None:
        return view
    size = prod(source.shape)
    between = Arrangement((size,), source.blob, (Factor(size, 1),))
    back, on = _direct(source, between), _direct(between, target)
    return None if back is None or on is None else back + on


def _direct(source: Arrangement, target: Arrangement) -> str | None:
    """`rearrangement` without a way by the blob's own order."""
    if source.factors == target.factors:
        same = source.shape == target.shape
        return "" if same else f".reshape({_arguments(target.shape)})"
    ends = _ends(source, target)
    if ends is None:
        return None
    parts, wanted = _split(source, ends), _split(target, ends)
    if sorted(parts) != sorted(wanted):
        return None
    behind = prod(source.shape)
    strides = {}
    for part in parts:
        behind //= part.extent
        strides[part] = behind
    by_target = _joined(Factor(part.extent, strides[part]) for part in wanted)
    by_source = sorted(by_target, key=lambda f: -f.stride)
    dims = tuple(factor.extent for factor in by_source)
    axes = tuple(by_source.index(factor) for factor in by_target)
    if dims == source.shape and axes == (1, 0) and dims[::-1] == target.shape:
        return ".T"
    view = f".transpose({_arguments(axes)})"
    if dims != source.shape:
        view = f".reshape({_arguments(dims)}){view}"
    if tuple(dims[axis] for axis in axes) != target.shape:
        view += f".reshape({_arguments(target.shape)})"
    return view


def _ends(*views: Arrangement) -> list[int] | None:
    """The steps in the blob at which an axis of either view begins or ends; None where
    they do not divide one another."""
    ends = {1}
    for factor in (factor for view in views for factor in view.factors):
        ends |= {abs(factor.stride), abs(factor.stride) * factor.extent}
    ordered = sorted(ends)
    whole = all(larger % smaller == 0 for smaller, larger in pairwise(ordered))
    return ordered if whole else None


def _split(view: Arrangement, ends: Sequence[int]) -> list[Factor]:
    """The axes of the view, ended at each of `ends`."""
    parts = []
    for extent, stride in view.factors:
        first = abs(stride)
        inner = [end for end in ends if first <= end <= first * extent]
        sign = 1 if stride > 0 else -1
        parts += [Factor(b // a, sign * a) for a, b in reversed([*pairwise(inner)])]
    return parts


def _joined(factors: Any) -> tuple[Factor, ...]:
    """Factors without those of one entry, and those that are one made one."""
    joined: list[Factor] = []
    for factor in factors:
        if factor.extent == 1:
            continue
        if joined and joined[-1].stride == factor.stride * factor.extent:
            outer = joined.pop()
            factor = Factor(outer.extent * factor.extent, factor.stride)
        joined.append(factor)
    return tuple(joined)


def _arguments(values: tuple[int, ...]) -> str:
    """A tuple as the arguments of a call."""
    return literal(values)[1:-1].rstrip(",")
