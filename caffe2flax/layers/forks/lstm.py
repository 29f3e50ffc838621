"""The layer type Lstm of Caffe's forks for text and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError, ambiguous
from caffe2flax.ir.abilities import Stateful
from caffe2flax.ir.call import DTYPE, RNGS, Call, Code, arguments
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import filler


@layer("Lstm", "lstm_param")
@dataclass(frozen=True, slots=True)
class Lstm(Layer, Stateful):
    """c = cont sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c).

    The bottom is (T * batch_size, ...), the streams of one step after the other, or
    (T, N, ...). cont is 0 at the first step, or the entry t + n of a second bottom.
    """

    bottoms = (1, 2)
    in_place = False

    num_output: int
    streams: int = 1
    form: str = ""
    """"flat", "sequence", or "" for the one that the rank of the bottom implies."""
    clipped: bool = False
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()

    @classmethod
    def parse(cls, params: Params) -> Self:
        threshold = params.get("clipping_threshold", 0.0)
        if threshold > 0 and params.phase == "TRAIN":
            text = "clipping_threshold clips gradients in Caffe: clip them in training"
            params.note(f"{params.span()}: {text}")
        num_output = params.require("num_output", int)
        streams = params.get("batch_size", 1)
        if min(num_output, streams) < 1:
            params.error(None, "num_output and batch_size must be positive")
        form = params.dialect("Lstm")
        if not form and params.has("batch_size"):
            form = params.decided("Lstm", "flat", "it has the field batch_size")
        return cls(
            max(num_output, 1),
            max(streams, 1),
            form,
            params.bottoms == 2,
            filler(params, "weight_filler"),
            filler(params, "bias_filler"),
        )

    def _flat(self, shape: Shape) -> bool:
        """Whether the first axis has both steps and streams. Raises ConversionError."""
        if self.form:
            return self.form == "flat"
        if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)):
            return True
        if len(shape) == 3:
            return False
        raise ambiguous(
            f"a bottom of shape {shape} does not show whether it is (T * N, ...) or "
            "(T, N, ...): choose with --dialect Lstm=flat or Lstm=sequence"
        )

    def _parts(self, shape: Shape) -> tuple[int, int, int]:
        """Steps, streams and features. Raises ConversionError."""
        if len(shape) < 2:
            raise ConversionError(f"the bottom needs 2 axes or more, not {shape}")
        if not self._flat(shape):
            return shape[0], shape[1], prod(shape[2:])
        if shape[0] % self.streams:
            raise ConversionError(
                f"{shape[0]} rows are no multiple of batch_size {self.streams}"
            )
        return shape[0] // self.streams, self.streams, prod(shape[1:])

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        steps, streams, _ = self._parts(inputs[0])
        if self.clipped:
            clip = inputs[1]
            if prod(clip) != clip[0] or clip[0] < steps + streams - 1:
                raise ConversionError(
                    f"the second bottom must hold a number for each step, not {clip}"
                )
        if self._flat(inputs[0]):
            return ((steps * streams, self.num_output),)
        return ((steps, streams, self.num_output),)

    @property
    def carried(self) -> tuple[str, ...]:
        return ("h", "c") if self.clipped else ()

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        width, features = 4 * self.num_output, self._parts(inputs[0])[2]
        return (
            Blob((width, features), self.weight_filler),
            Blob((width, self.num_output), self.weight_filler),
            Blob((width,), self.bias_filler),
        )

    def multiply_adds(self, *inputs: Shape) -> int:
        steps, streams, features = self._parts(inputs[0])
        width = 4 * self.num_output
        return steps * streams * width * (features + self.num_output)

    def names(self) -> tuple[str, ...]:
        return ("input_kernel", "hidden_kernel", "input_bias")

    def layouts(self, *inputs: Operand) -> Layouts:
        (shape,) = self.infer(*(operand.shape for operand in inputs))
        first = 1 if self._flat(inputs[0].shape) else 2
        x, *others = inputs
        wanted = x.layout if x.leads(first) else Layout.caffe(len(x.shape))
        plain = (Layout.caffe(len(operand.shape)) for operand in others)
        return Layouts((wanted, *plain), (Layout.caffe(len(shape)),))

    def build(self, at: Site) -> Call:
        features = self._parts(at.input.shape)[2]
        kernel, _, bias = self.blobs(at.input.shape)
        inits = {}
        if at.initialise:
            init = kernel.filler.initializer(kernel.shape, (1, 0))
            inits["kernel_init"] = Code(init)
            if bias.filler != Filler():
                inits["bias_init"] = Code(bias.filler.initializer(bias.shape, (0,)))
        sizes = features, self.num_output
        return Call.of("Lstm", *sizes, **inits, dtype=DTYPE, rngs=RNGS)

    def call(self, at: Site) -> str:
        streams = self.streams if self._flat(at.input.shape) else None
        given = arguments(*at.args, *filter(None, [at.state]), streams=streams)
        called = f"{at.module}({given})"
        return called if at.state else f"{called}[0]"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        named = {n: b.T for n, b in zip(self.names(), blobs, strict=True)}
        first = 1 if self._flat(at.input.shape) else 2
        named["input_kernel"] = at.input.arrange_rows(named["input_kernel"], first)
        return named

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, *clip = inputs
        steps, streams, features = self._parts(x.shape)
        of_input, of_state, bias = blobs
        x = x.reshape(steps, streams, features)
        h = c = np.zeros((streams, self.num_output))
        top = np.empty((steps, streams, self.num_output))
        for t in range(steps):
            for n in range(streams):
                goes_on = clip[0].ravel()[t + n] != 0 if clip else t > 0
                z = of_input @ x[t, n] + bias + goes_on * (of_state @ h[n])
                i, f, o = 0.5 + 0.5 * np.tanh(0.5 * z.reshape(4, -1)[:3])
                cell = goes_on * f * c[n] + i * np.tanh(z.reshape(4, -1)[3])
                c = np.concatenate([c[:n], cell[None], c[n + 1 :]])
                top[t, n] = o * np.tanh(cell)
            h = top[t]
        return top.reshape(self.infer(*(i.shape for i in inputs))[0])
