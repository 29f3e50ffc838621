"""Reshapes that move no data: the layout of a blob after a reshape."""

from __future__ import annotations

from itertools import chain, pairwise
from math import prod
from typing import NamedTuple

from caffe2flax.ir.layout import Layout, Operand, Order, Segment, Shape


def layout_after_reshape(source: Operand, shape: Shape, scaled: Shape) -> Layout | None:
    """The layout in which a reshape to `shape` moves no data; None where there is none.

    Both shapes are cut into common factors ("atoms"). The stored sequence of atoms
    stays as it is; the atoms of each new axis must be adjacent in it.
    """
    if source.layout.is_caffe:
        return Layout.caffe(len(shape))
    if any(len(order) > 1 for order in source.layout.orders):
        return None
    atoms = _common_atoms(source.scaled, scaled)
    if atoms is None:
        return None
    before, after = atoms
    stored = _stored_atoms(source, before)
    if stored is None:
        return None
    rank = len(shape)
    candidates = [Layout.channels_last(rank)] if rank >= 4 else []
    candidates.append(Layout.caffe(rank))
    candidates.append(_by_first_atom(after, stored))
    for candidate in candidates:
        layout = _fit(candidate, after, stored)
        if layout and not _reorders_batch(layout, shape, scaled):
            return layout
    return None


def _reorders_batch(layout: Layout, shape: Shape, scaled: Shape) -> bool:
    """Whether an axis that combines the batch with others would be stored in another
    order than Caffe's: the extent of a batch is not fixed, so no static permutation
    could undo that later."""
    return any(
        order and a != b
        for order, a, b in zip(layout.orders, shape, scaled, strict=True)
    )


class _Atom(NamedTuple):
    """A factor of the flat index; its `stride` in Caffe's order identifies it."""

    stride: int
    size: int


def _common_atoms(
    a: Shape, b: Shape
) -> tuple[list[list[_Atom]], list[list[_Atom]]] | None:
    """Both shapes as lists of the same atoms, one inner list for each axis; None where
    they have no common factors."""
    if prod(a) != prod(b) or 0 in a:
        return None
    bounds = sorted(set(_bounds(a)) | set(_bounds(b)))
    if any(high % low for low, high in pairwise(bounds)):
        return None

    def split(shape: Shape) -> list[list[_Atom]]:
        axes = []
        for stride, extent in zip(_strides(shape), shape, strict=True):
            inside = [x for x in bounds if stride <= x <= stride * extent]
            steps = [_Atom(low, high // low) for low, high in pairwise(inside)]
            axes.append(steps[::-1])
        return axes

    return split(a), split(b)


def _strides(shape: Shape) -> list[int]:
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def _bounds(shape: Shape) -> list[int]:
    return [*_strides(shape), prod(shape)]


def _stored_atoms(source: Operand, atoms: list[list[_Atom]]) -> list[_Atom] | None:
    """The atoms in the order in which the emitted array stores them."""
    stored: list[_Atom] = []
    for axis in source.layout.axes:
        order = source.layout.orders[axis]
        if not order:
            stored += atoms[axis]
            continue
        dims, perm = order[0]
        groups = _match(atoms[axis], dims)
        if groups is None:
            return None
        stored += chain.from_iterable(groups[i] for i in perm)
    return stored


def _match(atoms: list[_Atom], dims: Shape) -> list[list[_Atom]] | None:
    """`atoms` of one axis, grouped by the factors `dims` of its order."""
    groups, rest = [], list(atoms)
    for extent in dims:
        group: list[_Atom] = []
        while prod(atom.size for atom in group) < extent and rest:
            group.append(rest.pop(0))
        if prod(atom.size for atom in group) != extent:
            return None
        groups.append(group)
    return groups


def _by_first_atom(after: list[list[_Atom]], stored: list[_Atom]) -> Layout:
    """Axes in the order in which their first atoms are stored."""
    place = {atom: i for i, atom in enumerate(stored)}
    keys = [min((place[a] for a in axis), default=-1) for axis in after]
    axes = tuple(sorted(range(len(after)), key=lambda i: (keys[i], i)))
    return Layout(axes, ((),) * len(after))


def _fit(
    candidate: Layout, after: list[list[_Atom]], stored: list[_Atom]
) -> Layout | None:
    """`candidate` with the orders that `stored` implies; None where the atoms of an
    axis are not adjacent."""
    place = {atom: i for i, atom in enumerate(stored)}
    sequence: list[_Atom] = []
    orders: list[Order] = [()] * len(after)
    for axis in candidate.axes:
        kept = sorted(after[axis], key=place.__getitem__)
        sequence += kept
        if kept != after[axis]:
            perm = tuple(after[axis].index(atom) for atom in kept)
            orders[axis] = (Segment(tuple(a.size for a in after[axis]), perm),)
    return Layout(candidate.axes, tuple(orders)) if sequence == stored else None
