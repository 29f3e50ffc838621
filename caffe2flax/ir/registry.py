"""Which class converts a layer type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from caffe2flax.errors import ConversionError
from caffe2flax.ir.layer import Arity, Layer
from caffe2flax.ir.params import Params

LAYERS: dict[str, type[Layer]] = {}
PARAMETERS: dict[str, tuple[str, ...]] = {}
"""The parameter messages of each type, the layer's own first."""
L = TypeVar("L", bound=type[Layer])


def layer(type_: str, *parameters: str) -> Callable[[L], L]:
    """Registers a class as the layer type `type_`, with the parameter messages
    `parameters`. ValueError where the type is registered already."""

    def register(cls: L) -> L:
        if type_ in LAYERS:
            raise ValueError(f"layer type {type_} is registered twice")
        LAYERS[type_] = cls
        PARAMETERS[type_] = parameters
        cls.type = cls.type or type_
        return cls

    return register


VARIANTS: dict[str, list[tuple[Callable[[Params], bool], type[Layer]]]] = {}
"""The classes of forks for a type of Caffe, each with what tells the fork's meaning."""


def variant(type_: str, meant: Callable[[Params], bool]) -> Callable[[L], L]:
    """Registers a class for those layers of a type that a fork changed: `meant` tells
    them by the fields, or the number of bottoms, that only the fork has."""

    def register(cls: L) -> L:
        VARIANTS.setdefault(type_, []).append((meant, cls))
        cls.type = type_
        return cls

    return register


def find_variant(type_: str, params: Params) -> type[Layer] | None:
    """The fork's class that this layer needs; None for the type as Caffe has it."""
    found = (cls for meant, cls in VARIANTS.get(type_, ()) if meant(params))
    return next(found, None)


OPERATIONS: dict[str, str] = {}
"""Sources besides `ops/` whose functions generated modules may contain, by file."""
FAMILIES: list[tuple[re.Pattern[str], type[Layer]]] = []


def family(pattern: str) -> Callable[[L], L]:
    """Registers a class for all types that have none of their own and whose whole name
    matches `pattern`, in upper or lower case."""

    def register(cls: L) -> L:
        FAMILIES.append((re.compile(pattern, re.IGNORECASE), cls))
        return cls

    return register


def find_layer(type_: str, bottoms: int) -> type[Layer] | None:
    """The class of a type, or of the family that its name and its number of bottoms
    match; None where there is none."""
    if type_ in LAYERS:
        return LAYERS[type_]
    for pattern, cls in FAMILIES:
        if pattern.fullmatch(type_) and fits(cls.bottoms, bottoms):
            return cls
    return None


def fits(arity: Arity, count: int) -> bool:
    """Whether `count` blobs are allowed."""
    low, high = (arity, arity) if isinstance(arity, int) else arity
    return low <= count and (high is None or count <= high)


def check_arity(what: str, arity: Arity, count: int) -> None:
    """ConversionError where a layer has the wrong number of blobs."""
    if fits(arity, count):
        return
    low, high = (arity, arity) if isinstance(arity, int) else arity
    if low == high:
        wanted = f"exactly {low}"
    else:
        wanted = f"at least {low}" if high is None else f"{low} to {high}"
    raise ConversionError(f"needs {wanted} {what} blobs, has {count}")
