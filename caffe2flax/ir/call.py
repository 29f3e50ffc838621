"""Calls in generated code."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import numpy as np


def arguments(*positional: object, **named: object) -> str:
    """Source text of call arguments; keywords that are None are left out."""
    shown = [str(value) for value in positional]
    shown += [f"{key}={value}" for key, value in named.items() if value is not None]
    return ", ".join(shown)


def unless(value: object, default: object) -> str | None:
    """`value` as source text; None where it is Flax's default anyway."""
    return None if value == default else literal(value)


def literal(value: object) -> str:
    """`value` as Python source: strings escaped to ASCII, floats as short as they read
    back."""
    if isinstance(value, str):
        return ascii(value)
    if isinstance(value, float) and not np.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        inner = ", ".join(map(literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def same(values: Sequence[int]) -> int | tuple[int, ...]:
    """One number where all are equal, as Flax takes both."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def is_atom(text: str) -> bool:
    """Whether an operator beside `text` cannot tear it apart."""
    atoms = ast.Call | ast.Name | ast.Attribute | ast.Subscript
    return text.isidentifier() or isinstance(ast.parse(text, mode="eval").body, atoms)
