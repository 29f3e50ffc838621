"""Functions of single elements."""

from __future__ import annotations

import numpy as np

from caffe2flax.exports.onnx.program import Place
from caffe2flax.exports.onnx.table import writes
from caffe2flax.layers.activation import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    PReLU,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
    Threshold,
)
from caffe2flax.layers.power import Exp, Log, Power


@writes(ReLU)
def relu(at: Place, layer: ReLU) -> str:
    if not layer.negative_slope:
        return at.op("Relu", at.x)
    return at.op("LeakyRelu", at.x, alpha=layer.negative_slope)


@writes(PReLU)
def prelu(at: Place, layer: PReLU) -> str:
    count = 1 if layer.shared else -1
    slope = at.weight(0, "slope", (count, *(1,) * (at.rank - 2)))
    return at.op("PRelu", at.x, slope)


@writes(ELU)
def elu(at: Place, layer: ELU) -> str:
    return at.op("Elu", at.x, alpha=layer.alpha)


@writes(Sigmoid)
def sigmoid(at: Place, layer: Sigmoid) -> str:
    return at.op("Sigmoid", at.x)


@writes(TanH)
def tanh(at: Place, layer: TanH) -> str:
    # Beyond +-20 it is +-1; some programs compute exp(2 x), which overflows.
    low, high = at.constant("low", -20.0), at.constant("high", 20.0)
    return at.op("Tanh", at.op("Clip", at.x, low, high))


@writes(AbsVal)
def absval(at: Place, layer: AbsVal) -> str:
    return at.op("Abs", at.x)


@writes(BNLL)
def bnll(at: Place, layer: BNLL) -> str:
    # Some programs compute exp(x) for a large x, which overflows.
    low = at.op("Neg", at.op("Abs", at.x))
    return at.op("Add", at.op("Relu", at.x), at.op("Softplus", low))


@writes(Swish)
def swish(at: Place, layer: Swish) -> str:
    return at.op("Mul", at.x, at.op("Sigmoid", scaled(at, at.x, layer.beta, "beta")))


@writes(Clip)
def clip(at: Place, layer: Clip) -> str:
    bounds = at.constant("min", layer.min), at.constant("max", layer.max)
    return at.op("Clip", at.x, *bounds)


@writes(Threshold)
def threshold(at: Place, layer: Threshold) -> str:
    bound = at.constant("threshold", layer.threshold)
    return at.floats(at.op("Greater", at.x, bound))


@writes(Power)
def power(at: Place, layer: Power) -> str:
    with np.errstate(all="ignore"):
        constant = np.float32(layer.power) * np.float32(layer.scale) == 0
        value = np.power(np.float32(layer.shift), np.float32(layer.power))
    if constant:  # for NaN and infinities too
        return filled_like(at, at.x, 1.0 if layer.power == 0 else float(value))
    base = shifted(at, scaled(at, at.x, layer.scale), layer.shift)
    if layer.power == 1:
        return base
    if layer.power == 2:
        return at.op("Mul", base, base)
    if layer.power == 0.5:
        return at.op("Sqrt", base)
    return at.op("Pow", base, at.constant("power", layer.power))


@writes(Exp)
def exp(at: Place, layer: Exp) -> str:
    natural = layer.base == -1
    rate = 1.0 if natural else float(np.log(np.float32(layer.base)))
    inner = np.float32(rate) * np.float32(layer.scale)
    outer = np.power(
        np.float32(np.e if natural else layer.base), np.float32(layer.shift)
    )
    return scaled(
        at, at.op("Exp", scaled(at, at.x, float(inner))), float(outer), "factor"
    )


@writes(Log)
def log(at: Place, layer: Log) -> str:
    top = at.op("Log", shifted(at, scaled(at, at.x, layer.scale), layer.shift))
    if layer.base == -1:
        return top
    return scaled(at, top, float(1 / np.log(np.float32(layer.base))), "factor")


def scaled(at: Place, x: str, factor: float, name: str = "scale") -> str:
    """factor * x."""
    return x if factor == 1 else at.op("Mul", x, at.constant(name, factor))


def shifted(at: Place, x: str, shift: float, name: str = "shift") -> str:
    """x + shift."""
    return x if shift == 0 else at.op("Add", x, at.constant(name, shift))


def filled_like(at: Place, x: str, value: float) -> str:
    """An array of the shape of x with one number."""
    return at.op("Expand", at.constant("value", value), at.op("Shape", x))
