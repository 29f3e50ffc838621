"""Layers without bottoms, and without tops: DummyData, Parameter, HDF5Output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np

from caffe2flax.ir.abilities import Stochastic
from caffe2flax.ir.call import DTYPE, RNGS, Call, literal
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import blob_shape, read_filler


@layer("DummyData", "dummy_data_param")
@dataclass(frozen=True, slots=True)
class DummyData(Layer, Stochastic):
    """Each top as its filler fills it; a random filler fills it anew at every call."""

    bottoms = 0
    tops = (1, None)

    shapes: tuple[Shape, ...]
    fillers: tuple[Filler, ...]

    @classmethod
    def parse(cls, params: Params) -> Self:
        tops = params.tops
        shapes = tuple(blob_shape(shape) for shape in params.subs("shape"))
        names = ("num", "channels", "height", "width")
        extents = [params.all(name, int) for name in names]
        if any(extents):
            for name, given in zip(names, extents, strict=True):
                _check_count(params, name, len(given), tops)
            if shapes:
                params.error(
                    "shape", "give either shape or num, channels, height, width"
                )
            columns = [_each(given or (0,), tops) for given in extents]
            shapes = tuple(zip(*columns, strict=True))
        else:
            _check_count(params, "shape", len(shapes), tops)
        fillers = tuple(read_filler(given) for given in params.subs("data_filler"))
        if fillers:
            _check_count(params, "data_filler", len(fillers), tops)
        fillers = fillers or (Filler(),)
        return cls(_each(shapes or ((),), tops), _each(fillers, tops))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        for filler, shape in zip(self.fillers, self.shapes, strict=True):
            filler.known().initializer(shape)  # raises where Caffe aborts on this shape
        return self.shapes

    def draws(self, phase: str) -> bool:
        return self.takes_rngs

    @property
    def takes_rngs(self) -> bool:
        return any(filler.type != "constant" for filler in self.fillers)

    def call(self, at: Site) -> str:
        return ", ".join(map(_filled, self.shapes, self.fillers))

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        rng = np.random.default_rng(0)
        return tuple(
            filler.sample(shape, rng).astype(np.float64)
            for filler, shape in zip(self.fillers, self.shapes, strict=True)
        )


def _check_count(params: Params, name: str, count: int, tops: int) -> None:
    if count not in (1, tops):
        text = f"{count} values of {name} for {tops} tops: give 1 or one each"
        params.error(name, text)


T = TypeVar("T")


def _each(values: Sequence[T], tops: int) -> tuple[T, ...]:
    """One value for each top; fewer where the number of values is wrong."""
    if len(values) == tops:
        return tuple(values)
    return (values[0],) * tops


def _filled(shape: Shape, filler: Filler) -> str:
    if filler.type == "constant":
        return f"jnp.full({literal(shape)}, {literal(filler.value)})"
    return f"filled({literal(shape)}, {filler.initializer(shape)}, rngs=rngs)"


@layer("Parameter", "parameter_param")
@dataclass(frozen=True, slots=True)
class Parameter(Layer):
    """A learned blob."""

    bottoms = 0

    shape: Shape

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(blob_shape(params.sub("shape")))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return (self.shape,)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        return (Blob(self.shape, Filler()),)

    def names(self) -> tuple[str, ...]:
        return ("value",)

    def build(self, at: Site) -> Call:
        return Call.of("Parameter", self.shape, dtype=DTYPE, rngs=RNGS)

    def call(self, at: Site) -> str:
        return f"{at.module}()"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        return {"value": blobs[0]}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return blobs[0]


@layer("HDF5Output", "hdf5_output_param")
@dataclass(frozen=True, slots=True)
class HDF5Output(Layer):
    """Nothing: the file that Caffe writes is not part of the net."""

    bottoms = 2
    tops = 0

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("file_name")
        return cls()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return ()

    def call(self, at: Site) -> str:
        raise AssertionError("a layer without tops is dropped")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        return ()
