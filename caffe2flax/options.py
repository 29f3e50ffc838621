"""The options of a conversion: which net is converted, and how it is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from caffe2flax.errors import closest


class NetOptions(TypedDict, total=False):
    """Options of all functions that read a net."""

    name: str | None
    """The name of the class. Default: the net's name, or the file's."""
    phase: str
    """"TEST" (the default) or "TRAIN"; with `level` and `stages` it chooses among the
    net's layers as Caffe does."""
    level: int
    """Default: 0."""
    stages: Sequence[str] | str
    """One or several. Default: none."""
    input_shapes: Mapping[str, Sequence[int]] | None
    """By input blob, in Caffe's axis order (N, C, H, W), in place of the file's."""
    dialect: Mapping[str, str] | None
    """The meaning of a layer type with several meanings ({"Crop": "auto"}), where the
    file does not decide it."""
    mean: Sequence[float] | float
    """One number, or one for each channel, that the module's `preprocess` subtracts, in
    place of the file's `mean_value`."""
    scale: float | None
    """The number that `preprocess` multiplies by, in place of the file's `scale`."""
    flat: bool
    """Whether repeated blocks are written out instead of as classes."""
    plugins: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]
    """One or several Python files that are run for the layers that they register."""
    stub_unsupported: bool
    """Whether each unsupported layer becomes a method to be written by hand."""
    until: Sequence[str] | str
    """One or several blobs: the net up to them, and nothing behind."""


class ConversionOptions(NetOptions, total=False):
    """Options of all functions that convert a net."""

    taps: Sequence[str] | str
    """Blobs that the module returns besides its output; "all" is every blob."""


def one_or_more(given: Any) -> tuple[Any, ...]:
    """The values of an option of which one may be given by itself."""
    single = isinstance(given, str | bytes | os.PathLike | int | float)
    return (given,) if single else tuple(given)


def check_options(
    options: Mapping[str, object], kind: type = ConversionOptions
) -> None:
    """Raises TypeError for a keyword that is no option of `kind`."""
    known = kind.__annotations__
    for given in options:
        if given not in known:
            text = f"there is no option {given!r}{closest(given, known)}"
            raise TypeError(text)
