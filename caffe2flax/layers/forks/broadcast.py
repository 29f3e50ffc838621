"""Sums and products of blobs whose axes are aligned from the last one on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.call import RNGS, Call, literal
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._python import options, python_layer, whole


class Broadcast(Layer):
    """A function of two blobs, or of a blob and a learned one, with numpy's
    broadcasting."""

    __slots__ = ()

    bottoms = (1, 2)
    in_place = False

    shape: Shape | None
    operator: ClassVar[str] = "+"
    module: ClassVar[str] = "Bias"
    variable: ClassVar[str] = "bias"

    def _pair(self, *inputs: Shape) -> tuple[Shape, Shape]:
        if len(inputs) == 2:
            return inputs[0], inputs[1]
        assert self.shape is not None, "`parse` has seen to that"
        return inputs[0], self.shape

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        a, b = self._pair(*inputs)
        rank = max(len(a), len(b))
        wide = [(1,) * (rank - len(s)) + s for s in (a, b)]
        if any(x != y and 1 not in (x, y) for x, y in zip(*wide, strict=True)):
            raise ConversionError(f"extents must be equal or 1: {a} and {b} differ")
        return (tuple(map(max, *wide)) if rank else (),)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        if len(inputs) == 2:
            return ()
        return (Blob(self._pair(*inputs)[1], Filler()),)

    def names(self) -> tuple[str, ...]:
        return (self.variable,)

    def layouts(self, *inputs: Operand) -> Layouts:
        ranks = {len(x.shape) for x in inputs}
        if len(inputs) == 2 and len(ranks) == 1 and ranks >= {4}:
            last = Layout.channels_last(4)
            if last in (x.layout.plain() for x in inputs):
                return Layouts((last, last), (last,))
        (shape,) = self.infer(*(x.shape for x in inputs))
        plain = tuple(Layout.caffe(len(x.shape)) for x in inputs)
        return Layouts(plain, (Layout.caffe(len(shape)),))

    def build(self, at: Site) -> Call | None:
        if len(at.inputs) == 2:
            return None
        x, own = self._pair(at.input.shape)
        if len(own) > len(x):
            raise unsupported(f"a blob {own} of more axes than {x} is not converted")
        lacking = tuple(range(len(x) - len(own))) if own else ()
        return Call.of(
            self.module,
            *((own, lacking) if lacking else (own,)),
            use_bias=None if self.module == "Bias" else False,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        if len(at.inputs) == 1:
            return f"{at.module}({at.x})"
        return f" {self.operator} ".join(self._raised(at, at.operands))

    def _raised(self, at: Site, given: Sequence[str]) -> list[str]:
        """The inputs, with axes of extent 1 added so that all have the same rank."""
        ranks = [len(x.shape) for x in at.inputs]
        shown = list(given)
        for i, rank in enumerate(ranks):
            missing = tuple(range(max(ranks) - rank))
            if missing and rank:
                shown[i] = f"jnp.expand_dims({shown[i]}, {literal(missing)})"
        return shown

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        return {self.variable: blobs[0]} if blobs else {}


@layer("Add")
@dataclass(frozen=True, slots=True)
class Add(Broadcast):
    """x + y, axes aligned from the last one on."""

    shape: Shape | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.bottoms == 1:
            params.ambiguous(None, "with one bottom, the shape of the other is unknown")
        return cls()

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = inputs[0] + inputs[1]
        return top


@layer("Mul", "mul_param")
@dataclass(frozen=True, slots=True)
class Mul(Broadcast):
    """x * y, axes aligned from the last one on; y is learned where it is no bottom."""

    operator = "*"
    module = "Scale"
    variable = "scale"

    shape: Shape | None = None

    @classmethod
    def parse(cls, params: Params) -> Self:
        shape = params.all("mul_shape", int)
        if any(extent < 1 for extent in shape):
            params.error("mul_shape", f"extents must be positive, not {shape}")
        return cls(shape if params.bottoms == 1 else None)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = inputs[0] * (inputs[1] if len(inputs) == 2 else blobs[0])
        return top


class BinaryFunction(Broadcast):
    """A function of two blobs whose axes are aligned from the last one on.

    With one bottom, only a weight file has the other operand, and its shape: an error.
    """

    __slots__ = ()

    emitted: ClassVar[str] = ""
    """The function in generated code; "" where there is an `operator`."""
    function: ClassVar[Any]
    """The same in numpy."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        if params.bottoms == 1:
            params.ambiguous(None, "with one bottom, the shape of the other is unknown")
        return cls()

    def call(self, at: Site) -> str:
        if not self.emitted:
            return Broadcast.call(self, at)
        return f"{self.emitted}({', '.join(self._raised(at, at.args))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        top: Array = self.function(*inputs)
        return top


@layer("Sub")
@dataclass(frozen=True, slots=True)
class Sub(BinaryFunction):
    """x - y, axes aligned from the last one on."""

    operator = "-"
    function = staticmethod(np.subtract)

    shape: Shape | None = None


@layer("Div")
@dataclass(frozen=True, slots=True)
class Div(BinaryFunction):
    """x / y, axes aligned from the last one on."""

    operator = "/"
    function = staticmethod(np.divide)

    shape: Shape | None = None


@layer("Pow")
@dataclass(frozen=True, slots=True)
class Pow(BinaryFunction):
    """x to the power of y, axes aligned from the last one on."""

    operator = "**"
    function = staticmethod(np.power)

    shape: Shape | None = None


@layer("Maximum")
@dataclass(frozen=True, slots=True)
class Maximum(BinaryFunction):
    """The larger of x and y, axes aligned from the last one on."""

    emitted = "jnp.maximum"
    function = staticmethod(np.maximum)

    shape: Shape | None = None


@layer("Minimum")
@dataclass(frozen=True, slots=True)
class Minimum(BinaryFunction):
    """The smaller of x and y, axes aligned from the last one on."""

    emitted = "jnp.minimum"
    function = staticmethod(np.minimum)

    shape: Shape | None = None


@python_layer("eltwise", "Eltwise")
def _python_eltwise(params: Params) -> Layer:
    """Synopsys' fork: an operation of two blobs by its number."""
    given = options(params, "operation", "coeff")
    number = whole(params, given, "operation")
    if params.bottoms != 2:
        params.error(None, f"needs 2 bottoms, has {params.bottoms}")
    layers: tuple[Layer, ...] = (Mul(), Add(), Maximum(), Div(), Minimum())
    if number >= len(layers):
        params.error("param_str", f"operation in param_str is 0 to 4, not {number}")
        return layers[0]
    if number == 1 and not {*given.get("coeff", ("",))} <= {"1", "1.0"}:
        params.unsupported("param_str", "a sum in Python has coeff [1, 1] alone")
    return layers[number]
