"""InnerProduct, a product with a matrix, and Embed, a look-up of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from caffe2flax.files.mapped import loaded
from caffe2flax.ir.abilities import Abbreviated, ReadsWeights
from caffe2flax.ir.call import DTYPE, PRECISION, RNGS, Call, Code, literal
from caffe2flax.ir.classes import PerClass
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Merged, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import count_outputs, filler, initialisers

ROWS = 2**18
"""How many weights the reference converts to float64 at a time."""


@layer("InnerProduct", "inner_product_param")
@dataclass(frozen=True, slots=True)
class InnerProduct(Layer, ReadsWeights, Abbreviated, PerClass):
    """y = W x + b, with all axes of x from `axis` on flattened."""

    abbreviation = "linear"

    in_place = False

    num_output: int
    bias: bool = True
    first_axis: int = 1
    transpose: bool = False
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()

    @classmethod
    def parse(cls, params: Params) -> Self:
        transpose = params.get("transpose", False)

        def outputs(weight: Shape) -> int:
            return (1, 1, *weight)[-1 if transpose else -2]

        return cls(
            count_outputs(params, outputs),
            bias=params.get("bias_term", True),
            first_axis=params.get("axis", 1),
            transpose=transpose,
            weight_filler=filler(params, "weight_filler"),
            bias_filler=filler(params, "bias_filler"),
        )

    def _axis(self, shape: Shape) -> int:
        return canonical_axis(self.first_axis, len(shape))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        (shape,) = inputs
        return ((*shape[: self._axis(shape)], self.num_output),)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        (shape,) = inputs
        count = prod(shape[self._axis(shape) :])
        size = (count, self.num_output) if self.transpose else (self.num_output, count)
        weight = Blob(size, self.weight_filler)
        bias = Blob((self.num_output,), self.bias_filler)
        return (weight, bias) if self.bias else (weight,)

    def multiply_adds(self, *inputs: Shape) -> int:
        return prod(inputs[0]) * self.num_output

    def names(self) -> tuple[str, ...]:
        return ("kernel", "bias")

    def caption(self, *inputs: Shape) -> str:
        return str(self.num_output)

    def with_classes(self, count: int, other: int) -> InnerProduct | None:
        times, rest = divmod(self.num_output, count)
        return None if rest else replace(self, num_output=times * other)

    def layouts(self, *inputs: Operand) -> Layouts:
        (x,) = inputs
        axis = self._axis(x.shape)
        wanted = x.layout if x.leads(axis) else Layout.caffe(len(x.shape))
        return Layouts((wanted,), (Layout.caffe(axis + 1),))

    def build(self, at: Site) -> Call:
        axis = self._axis(at.input.shape)
        features = prod(at.input.shape[axis:])
        blobs = self.blobs(at.input.shape)
        shape, axes = blobs[0].shape, (0, 1) if self.transpose else (1, 0)
        kernel_init = Code(blobs[0].filler.initializer(shape, axes))
        reordered = not np.all(np.diff(at.input.flat_indices(axis)) == 1)
        call = Call.of(
            "nnx.Linear",
            features,
            self.num_output,
            use_bias=self.bias,
            **initialisers(at, blobs, kernel_init),
            dtype=DTYPE,
            precision=PRECISION,
            rngs=RNGS,
        )
        return replace(call, comment="rows in H, W, C order") if reordered else call

    def call(self, at: Site) -> str:
        axis = self._axis(at.input.shape)
        rank = len(at.input.shape)
        if axis == rank - 1:
            return f"{at.module}({at.x})"
        if axis == 1:
            return f"{at.module}(lax.collapse({at.x}, 1))"
        lead = (
            -1 if at.output.is_batch(a) else at.output.shape[a] for a in range(axis)
        )
        dims = literal((*lead, prod(at.input.shape[axis:])))[1:-1].rstrip(",")
        return f"{at.module}({at.operands[0]}.reshape({dims}))"

    def weights(self, blobs: Sequence[Array], at: Site) -> Mapping[str, Array | Merged]:
        kernel = blobs[0] if self.transpose else blobs[0].T
        rows = at.input.merged_rows(kernel, self._axis(at.input.shape))
        return {"kernel": rows} | ({"bias": blobs[1]} if self.bias else {})

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        axis = self._axis(x.shape)
        flat = x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))
        weight = loaded(blobs[0]).T if self.transpose else blobs[0]
        top = np.empty((len(flat), self.num_output), np.float64)
        step = max(1, ROWS // max(1, flat.shape[1]))
        for start in range(0, self.num_output, step):
            rows = slice(start, start + step)
            top[:, rows] = flat @ np.asarray(loaded(weight[rows]), np.float64).T
        if self.bias:
            top += loaded(blobs[1])
        return top.reshape(*x.shape[:axis], self.num_output)


@layer("Embed", "embed_param")
@dataclass(frozen=True, slots=True)
class Embed(Layer):
    """weight[x] + bias, each element of x the index of a row."""

    in_place = False

    num_output: int
    input_dim: int
    bias: bool = True
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()

    @classmethod
    def parse(cls, params: Params) -> Self:
        sizes = {
            name: params.require(name, int) for name in ("num_output", "input_dim")
        }
        for name, size in sizes.items():
            if size < 1 and params.has(name):
                params.error(name, f"{name} must be positive, not {size}")
        return cls(
            sizes["num_output"],
            sizes["input_dim"],
            bias=params.get("bias_term", True),
            weight_filler=filler(params, "weight_filler"),
            bias_filler=filler(params, "bias_filler"),
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return ((*inputs[0], self.num_output),)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        weight = Blob((self.input_dim, self.num_output), self.weight_filler)
        bias = Blob((self.num_output,), self.bias_filler)
        return (weight, bias) if self.bias else (weight,)

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        return noise.integers(0, self.input_dim, inputs[0])

    def names(self) -> tuple[str, ...]:
        return ("embedding", "bias")

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = inputs[0].layout
        output = Layout((*layout.axes, layout.rank), (*layout.orders, ()))
        return Layouts((layout,), (output,))

    def build(self, at: Site) -> Call:
        weight, *bias = self.blobs()
        inits = {}
        if at.initialise:
            inits["embedding_init"] = Code(weight.filler.initializer(weight.shape))
        if at.initialise and bias and bias[0].filler != Filler():
            inits["bias_init"] = Code(bias[0].filler.initializer(bias[0].shape))
        function = "BiasedEmbed" if self.bias else "nnx.Embed"
        sizes = (self.input_dim, self.num_output)
        return Call.of(function, *sizes, **inits, dtype=DTYPE, rngs=RNGS)

    def call(self, at: Site) -> str:
        return f"{at.module}({at.operands[0]}.astype(jnp.int32))"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        return dict(zip(self.names(), blobs, strict=False))

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = blobs[0][inputs[0].astype(np.int64)]
        return top + blobs[1] if self.bias else top
