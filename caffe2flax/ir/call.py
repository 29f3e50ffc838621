"""Calls in generated code: as data where they build nnx modules, as text elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffe2flax.ir.syntax import parse_expression

DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "nnx.Conv": {
        "strides": 1,
        "padding": "SAME",
        "input_dilation": 1,
        "kernel_dilation": 1,
        "feature_group_count": 1,
        "use_bias": True,
    },
    "nnx.ConvTranspose": {"strides": 1, "kernel_dilation": 1, "use_bias": True},
    "nnx.Linear": {"use_bias": True},
    "nnx.BatchNorm": {
        "axis": -1,
        "momentum": 0.99,
        "epsilon": 1e-5,
        "use_bias": True,
        "use_scale": True,
        "use_fast_variance": True,
    },
    "MovingBatchNorm": {"axis": -1, "momentum": 0.999, "epsilon": 1e-5},
    "Scale": {"use_bias": True},
    "Normalize": {"axis": -1, "across_spatial": False, "epsilon": 1e-10},
    "DenseBlock": {"narrow": False},
    "StochasticPool": {"overhang": (0, 0)},
}
"""The defaults of keywords, of Flax's modules and of those in `ops/`: a `Call` leaves
them out."""


@dataclass(frozen=True, slots=True)
class Code:
    """An expression that is written as it is: a name, or the call of an initializer."""

    text: str


RNGS, DTYPE, PRECISION = Code("rngs"), Code("dtype"), Code("precision")
"""Arguments of a class that it passes on to its modules."""


@dataclass(frozen=True, slots=True)
class Call:
    """`function(*args, **keywords)  # comment`. The arguments are numbers, strings,
    booleans, tuples of these, `Code`, `Repeated` and other calls."""

    function: str
    args: tuple[object, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)
    comment: str = ""

    @classmethod
    def of(cls, function: str, /, *args: object, **keywords: object) -> Call:
        """The call without the keywords that are None or have their default."""
        default = DEFAULTS.get(function, {})
        given = {
            name: value
            for name, value in keywords.items()
            if value is not None and not (name in default and value == default[name])
        }
        return cls(function, args, given)

    def argument(self, slot: int | str) -> object:
        """The argument at a position or with a keyword; the default where left out."""
        if isinstance(slot, int):
            return self.args[slot]
        if slot in self.keywords:
            return self.keywords[slot]
        return DEFAULTS[self.function][slot]

    def arguments(self) -> list[str]:
        """The source text of each argument."""
        keywords = (f"{k}={literal(v)}" for k, v in self.keywords.items())
        return [*map(literal, self.args), *keywords]

    def calls(self) -> Iterator[Call]:
        """This call and those in its arguments."""
        yield self
        for value in (*self.args, *self.keywords.values()):
            inner = value.call if isinstance(value, Repeated) else value
            if isinstance(inner, Call):
                yield from inner.calls()

    def __str__(self) -> str:
        """The source text without the comment."""
        return f"{self.function}({', '.join(self.arguments())})"


@dataclass(frozen=True, slots=True)
class Repeated:
    """Several arguments, each the result of a call of its own."""

    call: Call
    count: int

    def __str__(self) -> str:
        return f"*[{self.call} for _ in range({self.count})]"


def arguments(*positional: object, **named: object) -> str:
    """Source text of call arguments; keywords that are None are left out."""
    shown = [str(value) for value in positional]
    shown += [f"{key}={value}" for key, value in named.items() if value is not None]
    return ", ".join(shown)


def unless(value: object, default: object) -> str | None:
    """`value` as source text; None where it is Flax's default anyway."""
    return None if value == default else literal(value)


def literal(value: object) -> str:
    """`value` as Python source: strings escaped to ASCII, floats with the fewest digits
    that give the same number."""
    if isinstance(value, Code):
        return value.text
    if isinstance(value, Call | Repeated):
        return str(value)
    if isinstance(value, str):
        return ascii(value)
    if isinstance(value, float) and not np.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        inner = ", ".join(map(literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def is_literal(value: object) -> bool:
    """Whether an argument is a value, not an expression."""
    return not isinstance(value, Code | Call | Repeated)


def same(values: Sequence[int]) -> int | tuple[int, ...]:
    """One number where all are equal, as Flax takes both."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def is_atom(text: str) -> bool:
    """Whether `text` needs no parentheses as an operand."""
    atoms = ast.Call | ast.Name | ast.Attribute | ast.Subscript
    return text.isidentifier() or isinstance(parse_expression(text), atoms)
