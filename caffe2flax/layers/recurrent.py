"""Recurrent layers, with a state that each step passes to the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Stateful
from caffe2flax.ir.call import DTYPE, RNGS, Call, Code, arguments
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Arity, Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import filler, initialisers

ZEROS = Filler()


@dataclass(frozen=True, slots=True)
class Recurrent(Layer, Stateful):
    """x (T, N, ...), cont (T, N), maybe x_static (N, ...) -> tops (T, N, num_output).

    With `expose_hidden` the first states are bottoms and the last ones tops.
    """

    bottoms: ClassVar[Arity] = (2, 5)
    tops: ClassVar[Arity] = (1, 3)
    in_place = False
    gates: ClassVar[int] = 1
    forgets: ClassVar[bool] = False
    has_output: ClassVar[bool] = False
    states: ClassVar[tuple[str, ...]] = ("h",)

    num_output: int
    static: bool = False
    expose_hidden: bool = False
    weight_filler: Filler = ZEROS
    bias_filler: Filler = ZEROS
    forget_bias: float = 0.0
    """Synopsys' fork: added to the forget gate of an LSTM."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("debug_info")
        forget_bias = params.get("forget_bias", 0.0)
        if forget_bias and not cls.forgets:
            params.error("forget_bias", f"{cls.type} has no gate to forget")
        num_output = params.get("num_output", 0)
        if num_output < 1:
            params.error("num_output", f"num_output must be positive, not {num_output}")
        expose_hidden = params.get("expose_hidden", False)
        exposed = len(cls.states) if expose_hidden else 0
        if params.bottoms not in (2 + exposed, 3 + exposed):
            text = f"needs {2 + exposed} bottoms, and one for a static input"
            params.error(None, f"{text}; it has {params.bottoms}")
        if params.tops != 1 + exposed:
            params.error(None, f"needs {1 + exposed} tops; it has {params.tops}")
        return cls(
            num_output,
            static=params.bottoms > 2 + exposed,
            expose_hidden=expose_hidden,
            weight_filler=filler(params, "weight_filler"),
            bias_filler=filler(params, "bias_filler"),
            forget_bias=forget_bias,
        )

    @property
    def carried(self) -> tuple[str, ...]:
        return () if self.expose_hidden else self.states

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        x, cont, *others = inputs
        if len(x) < 3:
            raise ConversionError(f"x must be (steps, streams, ...), not {x}")
        if cont != x[:2]:
            raise ConversionError(f"cont must be (steps, streams) {x[:2]}, not {cont}")
        if self.static and (len(others[0]) < 2 or others[0][0] != x[1]):
            raise ConversionError(
                f"the static input must be ({x[1]}, ...), not {others[0]}"
            )
        state = (1, x[1], self.num_output)
        for shape in others[1:] if self.static else others:
            if shape != state:
                raise ConversionError(f"a state must be {state}, not {shape}")
        lasting = (state,) * len(self.states) if self.expose_hidden else ()
        return ((*x[:2], self.num_output), *lasting)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        width = self.gates * self.num_output
        shapes = [(width, prod(inputs[0][2:])), (width,)]
        if self.static:
            shapes.append((width, prod(inputs[2][1:])))
        shapes.append((width, self.num_output))
        if self.has_output:
            shapes += [(self.num_output, self.num_output), (self.num_output,)]
        fillers = {1: self.bias_filler, 2: self.weight_filler}
        return tuple(Blob(shape, fillers[len(shape)]) for shape in shapes)

    def multiply_adds(self, *inputs: Shape) -> int:
        """Those of every step of every stream; a static input counts once a stream."""
        matrices = [b.shape for b in self.blobs(*inputs) if len(b.shape) == 2]
        once = prod(matrices.pop(1)) if self.static else 0
        each = sum(map(prod, matrices))
        return prod(inputs[0][:2]) * each + inputs[0][1] * once

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """Each stream starts once, at its first step."""
        if bottom != 1:
            return None
        steps = np.arange(inputs[1][0])[:, None]
        return np.broadcast_to(steps > 0, inputs[1]).astype(np.float64)

    def names(self) -> tuple[str, ...]:
        static = ("static_kernel",) if self.static else ()
        output = ("output_kernel", "output_bias") if self.has_output else ()
        return ("input_kernel", "input_bias", *static, "hidden_kernel", *output)

    def layouts(self, *inputs: Operand) -> Layouts:
        starts = (2, 2, 1) if self.static else (2, 2)
        wanted = [Layout.caffe(len(operand.shape)) for operand in inputs]
        for i, (operand, start) in enumerate(zip(inputs, starts, strict=False)):
            if operand.leads(start):
                wanted[i] = operand.layout
        outputs = self.infer(*(operand.shape for operand in inputs))
        return Layouts(tuple(wanted), tuple(Layout.caffe(len(s)) for s in outputs))

    def build(self, at: Site) -> Call:
        blobs = self.blobs(*(operand.shape for operand in at.inputs))
        # One initializer for all kernels: it does not depend on their shapes.
        kernels = [blob for blob in blobs if len(blob.shape) > 1]
        inits = [k.filler.initializer(k.shape, (1, 0)) for k in kernels]
        return Call.of(
            self.type,
            prod(at.input.shape[2:]),
            self.num_output,
            static_features=prod(at.inputs[2].shape[1:]) if self.static else None,
            **initialisers(at, blobs, Code(inits[0])),
            forget_bias=self.forget_bias or None,
            dtype=DTYPE,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        x, cont, *others = at.args
        static = others.pop(0) if self.static else None
        given = arguments(x, cont, *others, *filter(None, [at.state]), x_static=static)
        called = f"{at.module}({given})"
        return f"{called}[0]" if self.carried and not at.state else called

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        named = {n: b.T for n, b in zip(self.names(), blobs, strict=True)}
        named["input_kernel"] = at.input.arrange_rows(named["input_kernel"], 2)
        if self.static:
            rows = at.inputs[2].arrange_rows(named["static_kernel"], 1)
            named["static_kernel"] = rows
        return named

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        x, cont, *others = inputs
        named = dict(zip(self.names(), blobs, strict=True))
        steps, streams = cont.shape
        z = x.reshape(steps, streams, -1) @ named["input_kernel"].T
        z += named["input_bias"]
        if self.static:
            z += others.pop(0).reshape(streams, -1) @ named["static_kernel"].T
        zeros = np.zeros((streams, self.num_output))
        state = tuple(s[0] for s in others) or (zeros,) * len(self.states)
        tops = []
        for t in range(steps):
            conted = cont[t][:, None] * state[0]
            total = z[t] + conted @ named["hidden_kernel"].T
            state = self.advance(state, total, cont[t][:, None])
            tops.append(self.output(state[0], named))
        lasting = (s[None] for s in state) if self.expose_hidden else ()
        return (np.stack(tops), *lasting)

    @abstractmethod
    def advance(
        self, state: tuple[Array, ...], z: Array, cont: Array
    ) -> tuple[Array, ...]:
        """The state (N, num_output) after a step."""

    def output(self, h: Array, named: dict[str, Array]) -> Array:
        return h


@layer("LSTM", "recurrent_param")
@dataclass(frozen=True, slots=True)
class LSTM(Recurrent):
    """c = cont sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)."""

    gates = 4
    forgets = True
    states = ("h", "c")

    def advance(
        self, state: tuple[Array, ...], z: Array, cont: Array
    ) -> tuple[Array, ...]:
        # The second of four gates.
        z = z + np.repeat([0, self.forget_bias, 0, 0], self.num_output)
        c, h = unit(state[1], z, cont)
        return h, c


@layer("RNN", "recurrent_param")
@dataclass(frozen=True, slots=True)
class RNN(Recurrent):
    """h = tanh(W_xh x + b_h + W_hh cont h);  o = tanh(W_ho h + b_o)."""

    has_output = True

    def advance(
        self, state: tuple[Array, ...], z: Array, cont: Array
    ) -> tuple[Array, ...]:
        return (np.tanh(z),)

    def output(self, h: Array, named: dict[str, Array]) -> Array:
        top: Array = np.tanh(h @ named["output_kernel"].T + named["output_bias"])
        return top


@layer("LSTMUnit")
@dataclass(frozen=True, slots=True)
class LSTMUnit(Layer):
    """c = cont sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)."""

    bottoms = 3
    tops = 2
    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        c, z, cont = inputs
        streams, features = c[1:2], sum(c[2:3])
        wanted = ((1, *streams, features), (1, *streams, 4 * features), (1, *streams))
        if inputs != wanted or len(c) != 3:
            raise ConversionError(
                "bottoms must be c (1, N, D), gates (1, N, 4 D) and cont (1, N), not "
                f"{c}, {z} and {cont}"
            )
        return (c, c)

    def call(self, at: Site) -> str:
        return f"lstm_unit({arguments(*at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        c, z, cont = inputs
        return unit(c, z, cont[..., None])


def unit(c: Array, z: Array, cont: Array) -> tuple[Array, Array]:
    """One step: c and h."""
    i, f, o, g = np.split(z, 4, axis=-1)
    c = np.where(cont == 0, 0, cont * sigmoid(f)) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def sigmoid(x: Array) -> Array:
    bounded: Array = 0.5 + 0.5 * np.tanh(0.5 * x)
    return bounded
