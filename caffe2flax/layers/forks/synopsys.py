"""Layers in Python code of Synopsys' fork."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.layers._python import python_layer


@dataclass(frozen=True, slots=True)
class TensorShape(Layer):
    """The extents of the bottom, as numbers."""

    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return ((len(inputs[0]),),)

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((inputs[0].layout,), (Layout.caffe(1),))

    def call(self, at: Site) -> str:
        x, rank = at.operands[0], len(at.input.shape)
        places = [at.input.layout.axes.index(axis) for axis in range(rank)]
        if places == list(range(rank)):
            return f"jnp.array({x}.shape, jnp.float32)"
        extents = ", ".join(f"{x}.shape[{place}]" for place in places)
        return f"jnp.array([{extents}], jnp.float32)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.array(inputs[0].shape, np.float64)


@python_layer("shape", "TensorShape")
def _tensor_shape(params: Params) -> Layer:
    params.ignore("param_str")
    return TensorShape()
