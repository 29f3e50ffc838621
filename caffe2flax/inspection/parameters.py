"""A layer's parameters, as text."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.window import Padding


def parameters(layer: Layer) -> dict[str, str]:
    """A layer's parameters that are not what they are by default, as text."""
    return _given(layer)


def _given(record: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Filler | Padding) or value in (None, field.default):
            continue
        if is_dataclass(value):
            found |= _given(value)
        else:
            found[field.name] = shown(value)
    return found


def shown(value: object) -> str:
    """A parameter in few characters."""
    if isinstance(value, float) and isfinite(value):
        return f"{value:.9g}"
    if isinstance(value, tuple):
        return " x ".join(map(shown, value))
    return str(value)
