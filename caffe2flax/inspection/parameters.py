"""A layer's parameters, as text."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.window import Padding


def parameters(layer: Layer) -> dict[str, str]:
    """A layer's parameters that are not defaults, as text."""
    return _given(layer)


def _given(record: Any) -> dict[str, str]:
    settings: dict[str, str] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Filler | Padding) or value in (None, field.default):
            continue
        if is_dataclass(value):
            settings |= _given(value)
        else:
            settings[field.name] = shown(value)
    return settings


def shown(value: object) -> str:
    """The value of a parameter as a short text."""
    if isinstance(value, float) and isfinite(value):
        return f"{value:.9g}"
    if isinstance(value, tuple):
        return " x ".join(map(shown, value))
    return str(value)
