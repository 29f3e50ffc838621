"""How an array of the generated code is stored relative to Caffe's blob: the order of
its axes, and of the entries along each axis.

Shapes are always in Caffe's axis order. A layout gives the order in generated code:
channels last for images, and after a Flatten of such an image, one axis whose entries
are stored H, W, C instead of C, H, W. Because this order is tracked, Flatten, Permute,
Reshape and Concat cost nothing at run time: an InnerProduct after them permutes its
rows once, at conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Shape = tuple[int, ...]
T = TypeVar("T")


class Segment(NamedTuple):
    """A run of entries along one axis: Caffe's C-order index over `dims`, stored as if
    the array of shape `dims` had been transposed by `perm`."""

    dims: Shape
    perm: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.dims)


Order = tuple[Segment, ...]
"""The segments of an axis, in order; empty where it is stored as in Caffe."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Emitted axis i is Caffe's axis `axes[i]`; `orders` has an Order for each of
    Caffe's axes."""

    axes: tuple[int, ...]
    orders: tuple[Order, ...]

    @classmethod
    def caffe(cls, rank: int) -> Layout:
        """N, C, H, W."""
        return cls(tuple(range(rank)), ((),) * rank)

    @classmethod
    def channels_last(cls, rank: int, channel: int = 1) -> Layout:
        """N, H, W, C: the channel axis moved to the end."""
        if rank <= channel:
            return cls.caffe(rank)
        axes = (*(i for i in range(rank) if i != channel), channel)
        return cls(axes, ((),) * rank)

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def is_caffe(self) -> bool:
        return self == Layout.caffe(self.rank)

    def plain(self, *axes: int) -> Layout:
        """The same axes with Caffe's order along `axes`, or along all of them."""
        chosen = axes or range(self.rank)
        orders = tuple(() if i in chosen else o for i, o in enumerate(self.orders))
        return Layout(self.axes, orders)

    def with_order(self, axis: int, order: Order) -> Layout:
        orders = tuple(order if i == axis else o for i, o in enumerate(self.orders))
        return Layout(self.axes, orders)

    def position(self, axis: int) -> int:
        """The position of Caffe's `axis` in the emitted array; -1 for the last of
        several."""
        position = self.axes.index(axis)
        return -1 if position == self.rank - 1 and self.rank > 1 else position

    def arrange(self, shape: Shape) -> Shape:
        """Extents in emitted order of a blob of Caffe's `shape`."""
        return self.arrange_each(shape)

    def arrange_each(self, values: Sequence[T]) -> tuple[T, ...]:
        """`values`, one for each of Caffe's axes, in emitted order."""
        return tuple(values[axis] for axis in self.axes)

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        """An emitted array with its axes and entries in Caffe's order."""
        array = array.transpose(np.argsort(self.axes))
        for axis, order in enumerate(self.orders):
            if order:
                array = array.take(np.argsort(order_indices(order)), axis)
        return array

    def permutation(self, target: Layout) -> tuple[int, ...]:
        """The argument of `transpose` that turns this axis order into `target`'s."""
        return tuple(self.axes.index(axis) for axis in target.axes)


@dataclass(frozen=True, slots=True)
class Merged:
    """`array` as an array of another shape, in C order; copied only when numpy needs
    the array."""

    array: NDArray[Any]
    shape: Shape

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.asarray(self.array.reshape(self.shape), dtype, copy=copy)


@dataclass(frozen=True, slots=True)
class Operand:
    """A blob as a layer sees it in generated code.

    `scaled` is the shape of the blob when the first extent of every input is multiplied
    by BATCH_SCALE: extents that differ from `shape` depend on the batch, the others are
    constants.
    """

    shape: Shape
    layout: Layout
    scaled: Shape

    @property
    def emitted(self) -> Shape:
        return self.layout.arrange(self.shape)

    def axis(self, axis: int) -> int:
        """Caffe's `axis` (negative counts from the end) as an axis of the emitted
        array."""
        return self.layout.position(axis % len(self.shape))

    def is_batch(self, axis: int) -> bool:
        return self.shape[axis] != self.scaled[axis]

    def reshape_dims(self) -> tuple[int, ...]:
        """Arguments of `reshape` that give this blob: -1 for the extent that depends on
        the batch."""
        dims = [-1 if self.is_batch(a) else self.shape[a] for a in self.layout.axes]
        if dims.count(-1) > 1:
            return self.emitted
        return tuple(dims)

    def describe(self) -> str:
        """`N, 55, 55, 96`: emitted extents, N where the extent is that of the batch."""
        return ", ".join(self._extent(axis) for axis in self.layout.axes)

    def _extent(self, axis: int) -> str:
        if not self.is_batch(axis):
            return str(self.shape[axis])
        return "N" if axis == 0 else f"N*{self.shape[axis]}"

    def flat_indices(self, start: int) -> NDArray[np.int64]:
        """Caffe's flat index, over axes `start` and on, of each entry of the emitted
        ones."""
        index = np.arange(prod(self.shape[start:])).reshape(self.shape[start:])
        for axis in range(start, len(self.shape)):
            if self.layout.orders[axis]:
                index = index.take(
                    order_indices(self.layout.orders[axis]), axis - start
                )
        tail = [axis - start for axis in self.layout.axes if axis >= start]
        return index.transpose(tail).ravel()

    def arrange_rows(self, rows: NDArray[Any], start: int) -> NDArray[Any]:
        """`rows` (K, ...), one for each entry of Caffe's axes `start` and on, in
        emitted order."""
        return np.asarray(self.merged_rows(rows, start))

    def merged_rows(self, rows: NDArray[Any], start: int) -> Merged:
        """`arrange_rows` without the copy."""
        tail = self.shape[start:]
        axes = [axis - start for axis in self.layout.axes if axis >= start]
        if any(len(order) > 1 for order in self.layout.orders):
            return Merged(rows[self.flat_indices(start)], rows.shape)
        dims: list[int] = []
        places: list[list[int]] = []
        for extent, order in zip(tail, self.layout.orders[start:], strict=True):
            factors, perm = order[0] if order else Segment((extent,), (0,))
            places.append([len(dims) + i for i in perm])
            dims += factors
        stored = [place for axis in axes for place in places[axis]]
        rest = rows.shape[1:]
        view = rows.reshape(*dims, *rest)
        kept = range(len(dims), len(dims) + len(rest))
        return Merged(view.transpose(*stored, *kept), rows.shape)

    def arrange_blob(self, blob: NDArray[Any], start: int) -> NDArray[Any]:
        """`blob` over Caffe's axes `start` and on, its axes and entries in emitted
        order."""
        for i in range(blob.ndim):
            if self.layout.orders[start + i]:
                blob = blob.take(order_indices(self.layout.orders[start + i]), i)
        covered = range(start, start + blob.ndim)
        return blob.transpose([a - start for a in self.layout.axes if a in covered])

    def leads(self, start: int) -> bool:
        """Whether the axes before `start` are the first ones of the emitted array too,
        in Caffe's order."""
        leading = tuple(range(start))
        return self.layout.axes[:start] == leading and not any(
            self.layout.orders[:start]
        )


BATCH_SCALE = 9973
"""A prime that no extent of a real network is a multiple of."""


def order_indices(order: Order) -> NDArray[np.int64]:
    """`caffe_index[stored_position]` along an axis."""
    parts, offset = [], 0
    for dims, perm in order:
        size = prod(dims)
        parts.append(offset + np.arange(size).reshape(dims).transpose(perm).ravel())
        offset += size
    return np.concatenate(parts)


def join_orders(orders: list[tuple[Order, int]]) -> Order:
    """The order of an axis that concatenates axes with these (order, extent)."""
    if not any(order for order, _ in orders):
        return ()
    runs = ((order or (Segment((extent,), (0,)),)) for order, extent in orders)
    return tuple(chain.from_iterable(runs))


def split_order(order: Order, sizes: list[int]) -> list[Order] | None:
    """The orders of the parts of an axis cut into `sizes`; None where a cut goes
    through a segment that is stored in another order."""
    parts: list[Order] = []
    runs = list(order[::-1])
    for size in sizes:
        part: list[Segment] = []
        missing = size if order else 0
        while missing:
            run = runs.pop()
            if run.size > missing:
                if len(run.dims) > 1:
                    return None
                runs.append(Segment((run.size - missing,), (0,)))
                run = Segment((missing,), (0,))
            part.append(run)
            missing -= run.size
        sorted_runs = all(run.perm == tuple(range(len(run.perm))) for run in part)
        parts.append(() if sorted_runs else tuple(part))
    return parts


def repeat_order(order: Order, times: int) -> Order | None:
    """The order of `times` copies of an axis, one after the other; None where one
    segment cannot express it."""
    if not order or times == 1:
        return order
    if len(order) > 1:
        return None
    dims, perm = order[0]
    return (Segment((times, *dims), (0, *(p + 1 for p in perm))),)
