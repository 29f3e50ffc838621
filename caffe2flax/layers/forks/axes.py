"""Layers that reorder axes or entries, and that move blocks into the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("Transpose", "transpose_param")
@dataclass(frozen=True, slots=True)
class Transpose(Layer):
    """Axis i of the top is axis dim[i] of the bottom."""

    in_place = False

    dim: tuple[int, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        dim = params.all("dim", int)
        if sorted(dim) != list(range(len(dim))):
            params.error("dim", f"dim must name each axis once, not {dim}")
        return cls(dim)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        if len(shape) != len(self.dim):
            raise ConversionError(f"dim {self.dim} does not fit a blob of {shape}")
        return (tuple(shape[axis] for axis in self.dim),)

    def layouts(self, *inputs: Operand) -> Layouts:
        # No data moves: the same array, with its axes renamed.
        have = inputs[0].layout
        axes = tuple(self.dim.index(axis) for axis in have.axes)
        orders = tuple(have.orders[axis] for axis in self.dim)
        return Layouts((have,), (Layout(axes, orders),))

    def call(self, at: Site) -> str:
        return at.x

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return inputs[0].transpose(self.dim)


@layer("Reverse", "reverse_param")
@dataclass(frozen=True, slots=True)
class Reverse(Layer):
    """The entries of some axes in reverse order."""

    in_place = False

    reversed_axes: tuple[int, ...] = (0,)

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.all("axis", int) or (0,))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        self._axes(len(inputs[0]))
        return inputs

    def _axes(self, rank: int) -> tuple[int, ...]:
        return tuple(canonical_axis(axis, rank) for axis in self.reversed_axes)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout.plain(*self._axes(len(inputs[0].shape)))
        return Layouts((layout,), (layout,))

    def call(self, at: Site) -> str:
        axes = [at.axis(axis) for axis in self._axes(len(at.input.shape))]
        shown = axes[0] if len(axes) == 1 else tuple(axes)
        return f"jnp.flip({at.x}, {literal(shown)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        return np.flip(x, self._axes(x.ndim))


@dataclass(frozen=True, slots=True)
class BatchBlocks(Layer):
    """A layer between blocks along the axes after the first, and images."""

    in_place = False

    block: tuple[int, ...]
    ends: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, params: Params, name: str) -> Self:
        block, flat = params.all("block_shape", int), params.all(name, int)
        if not block or min(block) < 1:
            params.error("block_shape", "block_shape needs positive numbers")
        if len(flat) != 2 * len(block) or min(flat, default=0) < 0:
            text = f"{name} needs two numbers, 0 or more, for each of block_shape"
            params.error(name, text)
        return cls(block, tuple(zip(flat[::2], flat[1::2], strict=False)))

    def _check(self, shape: Shape) -> None:
        if len(shape) <= len(self.block):
            raise ConversionError(f"block_shape {self.block} exceeds a blob of {shape}")


@layer("SpaceToBatchND", "space_to_batch_nd_param")
@dataclass(frozen=True, slots=True)
class SpaceToBatchND(BatchBlocks):
    """The entries of each block, after padding with zeros, as separate images."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls.read(params, "paddings")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        self._check(shape)
        sizes = []
        for size, b, ends in zip(shape[1:], self.block, self.ends, strict=False):
            if (size + sum(ends)) % b:
                raise ConversionError(f"{size} and {ends} are no multiple of {b}")
            sizes.append((size + sum(ends)) // b)
        return ((shape[0] * prod(self.block), *sizes, *shape[1 + len(sizes) :]),)

    def call(self, at: Site) -> str:
        return f"space_to_batch({at.x}, {literal(self.block)}, {literal(self.ends)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        count = len(self.block)
        x = np.pad(x, [(0, 0), *self.ends, *[(0, 0)] * (x.ndim - count - 1)])
        pieces = []
        for at in np.ndindex(*self.block):
            steps = (slice(o, None, b) for o, b in zip(at, self.block, strict=True))
            pieces.append(x[(slice(None), *steps)])
        return np.concatenate(pieces)


@layer("BatchToSpaceND", "batch_to_space_nd_param")
@dataclass(frozen=True, slots=True)
class BatchToSpaceND(BatchBlocks):
    """Images as the entries of blocks, cropped."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls.read(params, "crops")

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        self._check(shape)
        if shape[0] % prod(self.block):
            raise ConversionError(f"{shape[0]} images do not fill blocks {self.block}")
        sizes = [
            size * b - sum(ends)
            for size, b, ends in zip(shape[1:], self.block, self.ends, strict=False)
        ]
        return ((shape[0] // prod(self.block), *sizes, *shape[1 + len(sizes) :]),)

    def call(self, at: Site) -> str:
        return f"batch_to_space({at.x}, {literal(self.block)}, {literal(self.ends)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        pieces = np.split(x, prod(self.block))
        sizes = [n * b for n, b in zip(x.shape[1:], self.block, strict=False)]
        top = np.empty((len(pieces[0]), *sizes, *x.shape[1 + len(sizes) :]))
        for at, piece in zip(np.ndindex(*self.block), pieces, strict=True):
            steps = (slice(o, None, b) for o, b in zip(at, self.block, strict=True))
            top[(slice(None), *steps)] = piece
        kept = (
            slice(low, n - high)
            for n, (low, high) in zip(sizes, self.ends, strict=True)
        )
        return top[(slice(None), *kept)]


@layer("Unstack", "unstack_param")
@dataclass(frozen=True, slots=True)
class Unstack(Layer):
    """The entries of an axis, each as a top."""

    in_place = False
    tops = (1, None)

    count: int
    unstacked: int = 0

    @classmethod
    def parse(cls, params: Params) -> Self:
        given = params.get("num", 0)
        if given and given != params.tops:
            params.error("num", f"num is {given}, but there are {params.tops} tops")
        return cls(params.tops, params.get("axis", 0))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        axis = canonical_axis(self.unstacked, len(shape))
        if shape[axis] != self.count:
            raise ConversionError(f"{self.count} tops for {shape[axis]} entries")
        return ((*shape[:axis], *shape[axis + 1 :]),) * self.count

    def call(self, at: Site) -> str:
        return f"jnp.unstack({at.x}, axis={self.unstacked})"

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        (x,) = inputs
        entries = tuple(np.moveaxis(x, self.unstacked, 0))
        return entries if len(entries) > 1 else entries[0]
