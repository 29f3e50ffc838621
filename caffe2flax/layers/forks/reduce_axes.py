"""Reductions along given axes, with a layer type for each function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@dataclass(frozen=True, slots=True)
class Reduced(Layer):
    """A function of the entries along some axes, or along all."""

    in_place = False

    emitted: ClassVar[str]
    """The function in generated code, with the arguments `axis` and `keepdims`."""
    function: ClassVar[Any]
    """The same in numpy."""

    chosen: tuple[int, ...] = ()
    keep: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.all("axis", int), params.get("keepdims", False))

    def axes(self, rank: int) -> tuple[int, ...]:
        """Caffe's axes that are reduced, in ascending order."""
        axes = sorted(canonical_axis(axis, rank) for axis in self.chosen)
        if len(set(axes)) < len(axes):
            raise ConversionError(f"axis names an axis twice: {self.chosen}")
        return tuple(axes) or tuple(range(rank))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        reduced = self.axes(len(shape))
        if self.keep:
            return (tuple(1 if i in reduced else n for i, n in enumerate(shape)),)
        return (tuple(n for i, n in enumerate(shape) if i not in reduced),)

    def layouts(self, *inputs: Operand) -> Layouts:
        """Any layout; the axes that remain keep their order."""
        have = inputs[0].layout
        reduced = self.axes(have.rank)
        if self.keep:
            return Layouts((have,), (have.plain(*reduced),))
        kept = [axis for axis in range(have.rank) if axis not in reduced]
        axes = tuple(kept.index(axis) for axis in have.axes if axis in kept)
        return Layouts((have,), (Layout(axes, tuple(have.orders[a] for a in kept)),))

    def call(self, at: Site) -> str:
        rank = len(at.input.shape)
        reduced = sorted(at.axis(axis) % rank for axis in self.axes(rank))
        axes = None if len(reduced) == rank else tuple(reduced)
        shown = reduced[0] if len(reduced) == 1 else axes
        options = {
            "axis": None if axes is None else literal(shown),
            "keepdims": unless(self.keep, False),
        }
        return f"{self.emitted}({arguments(at.x, **options)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        axes = self.axes(x.ndim)
        return np.asarray(self.function(x, axis=axes, keepdims=self.keep))


@layer("ReduceSum", "reduce_sum_param")
class ReduceSum(Reduced):
    """The sum along the axes `axis`."""

    __slots__ = ()

    emitted = "jnp.sum"
    function = staticmethod(np.sum)


@layer("ReduceMean", "reduce_mean_param")
class ReduceMean(Reduced):
    """The mean along the axes `axis`."""

    __slots__ = ()

    emitted = "jnp.mean"
    function = staticmethod(np.mean)


@layer("ReduceMax", "reduce_max_param")
class ReduceMax(Reduced):
    """The largest entry along the axes `axis`."""

    __slots__ = ()

    emitted = "jnp.max"
    function = staticmethod(np.max)


@layer("ReduceMin", "reduce_min_param")
class ReduceMin(Reduced):
    """The smallest entry along the axes `axis`."""

    __slots__ = ()

    emitted = "jnp.min"
    function = staticmethod(np.min)


@layer("ReduceProd", "reduce_prod_param")
class ReduceProd(Reduced):
    """The product along the axes `axis`."""

    __slots__ = ()

    emitted = "jnp.prod"
    function = staticmethod(np.prod)


@layer("ReduceLogSumExp", "reduce_logsumexp_param")
class ReduceLogSumExp(Reduced):
    """log(sum of exp(x)) along the axes `axis`."""

    __slots__ = ()

    emitted = "jax.nn.logsumexp"

    @staticmethod
    def function(x: Array, axis: Shape, keepdims: bool) -> Array:
        return np.asarray(np.log(np.exp(x).sum(axis, keepdims=keepdims)))


class Norm(Reduced):
    """A norm along `axes`, which remain with extent 1 unless keepdims is 0."""

    __slots__ = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(params.all("axes", int), params.get("keepdims", 1) == 1)


@layer("ReduceL1", "reduce_l1_param")
class ReduceL1(Norm):
    """The sum of absolute values along `axes`."""

    __slots__ = ()

    emitted = "absolute_sum"

    @staticmethod
    def function(x: Array, axis: Shape, keepdims: bool) -> Array:
        return np.asarray(np.abs(x).sum(axis, keepdims=keepdims))


@layer("ReduceL2", "reduce_l2_param")
class ReduceL2(Norm):
    """The root of the sum of squares along `axes`."""

    __slots__ = ()

    emitted = "root_sum_square"

    @staticmethod
    def function(x: Array, axis: Shape, keepdims: bool) -> Array:
        return np.asarray(np.sqrt((x * x).sum(axis, keepdims=keepdims)))
