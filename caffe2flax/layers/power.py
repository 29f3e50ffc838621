"""Powers, exponentials and logarithms of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.ir.call import literal
from caffe2flax.ir.layer import Array, Elementwise, Site
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer

EXACT_POWERS = 16
"""Up to this power, repeated multiplication is as exact as `**`, and faster."""


@layer("Power", "power_param")
@dataclass(frozen=True, slots=True)
class Power(Elementwise):
    """(shift + scale * x) ** power."""

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(
            params.get("power", 1.0), params.get("scale", 1.0), params.get("shift", 0.0)
        )

    @property
    def _constant(self) -> str | None:
        """The value of a power that does not depend on x, for NaN and infinities
        too."""
        with np.errstate(all="ignore"):
            if np.float32(self.power) * np.float32(self.scale) != 0:
                return None
        return "1.0" if self.power == 0 else _power(self.shift, self.power)

    def call(self, at: Site) -> str:
        constant = self._constant
        if constant is not None:
            return f"jnp.full_like({at.x}, {constant})"
        plain = self.scale == 1 and self.shift == 0
        if self.power == 1 and plain:
            return at.x
        base = _affine(at.operands[0], self.scale, self.shift)
        if self.power == 1:
            return base
        if self.power == 2:
            return f"jnp.square({at.x if plain else base})"
        if self.power == 0.5:
            return f"jnp.sqrt({at.x if plain else base})"
        whole = self.power.is_integer() and abs(self.power) <= EXACT_POWERS
        power = int(self.power) if whole else literal(self.power)
        if not plain:
            return f"({base}) ** {power}"
        simple = base.isidentifier() and np.isfinite(self.power)
        return f"{base}**{power}" if simple else f"{base} ** {power}"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        constant = self._constant
        if constant is not None:
            return np.full_like(x, float(constant.removeprefix('float("').rstrip('")')))
        with np.errstate(all="ignore"):
            return np.power(self.shift + self.scale * x, self.power)


@layer("Exp", "exp_param")
@dataclass(frozen=True, slots=True)
class Exp(Elementwise):
    """base ** (shift + scale * x); base -1 means e."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(_base(params), params.get("scale", 1.0), params.get("shift", 0.0))

    def call(self, at: Site) -> str:
        # As in Caffe the shift is a factor: base ** shift * base ** (scale * x).
        natural = self.base == -1
        inner = (
            literal(self.scale)
            if natural
            else _text(np.log(np.float32(self.base)) * np.float32(self.scale))
        )
        x = at.x if inner == "1.0" else f"{inner} * {at.operands[0]}"
        outer = _power(np.e if natural else self.base, self.shift)
        return f"jnp.exp({x})" if outer == "1.0" else f"{outer} * jnp.exp({x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        base = np.e if self.base == -1 else self.base
        with np.errstate(all="ignore"):
            return np.power(base, self.shift + self.scale * inputs[0])


@layer("Log", "log_param")
@dataclass(frozen=True, slots=True)
class Log(Elementwise):
    """log(shift + scale * x) / log(base); base -1 means e."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, params: Params) -> Self:
        base = _base(params)
        if base == 1:
            params.error("base", "there is no logarithm to base 1")
        return cls(base, params.get("scale", 1.0), params.get("shift", 0.0))

    def call(self, at: Site) -> str:
        plain = self.scale == 1 and self.shift == 0
        x = at.x if plain else _affine(at.operands[0], self.scale, self.shift)
        named = {-1.0: "jnp.log", 2.0: "jnp.log2", 10.0: "jnp.log10"}
        if self.base in named:
            return f"{named[self.base]}({x})"
        return f"{_text(1 / np.log(np.float32(self.base)))} * jnp.log({x})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        divisor = 1.0 if self.base == -1 else np.log(self.base)
        with np.errstate(all="ignore"):
            top: Array = np.log(self.shift + self.scale * inputs[0]) / divisor
        return top


def _base(params: Params) -> float:
    """`base`, -1 for e. A base with no finite logarithm is a problem."""
    base = params.get("base", -1.0)
    with np.errstate(all="ignore"):
        stored = np.float32(base)
        logarithm = np.log(stored)
    if stored != -1 and not (stored > 0 and np.isfinite(logarithm)):
        params.error("base", f"base must be positive and finite, or -1, not {base}")
        return -1.0
    return base


def _affine(x: str, scale: float, shift: float) -> str:
    """`scale * x + shift` of the operand x, without a scale of 1 and a shift of 0."""
    text = x if scale == 1 else f"{literal(scale)} * {x}"
    if shift == 0:
        return text
    sign = "-" if shift < 0 else "+"
    return f"{text} {sign} {literal(abs(shift))}"


def _power(base: float, exponent: float) -> str:
    with np.errstate(all="ignore"):
        return _text(np.power(np.float32(base), np.float32(exponent)))


def _text(value: np.floating) -> str:
    """The shortest literal that gives the same float32."""
    return literal(float(str(np.float32(value))))
