"""Users' own layers: from files that the user names, and from installed packages.

Files that a net names are never loaded.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.bounded import read_text
from caffe2flax.ir.registry import LAYERS, OPERATIONS, PARAMETERS

GROUP = "caffe2flax.layers"
"""The group of entry points for modules with layers."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A file that was run: its text, and the layer types that it registered."""

    text: str
    types: tuple[str, ...]


_LOADED: dict[Path, Plugin] = {}


def load_plugins(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Runs each file, which registers its layers; a changed file replaces its earlier
    version. Raises ConversionError where one fails or a type is registered already."""
    for path in paths:
        _load_file(Path(path))


def _load_file(path: Path) -> None:
    place = path.resolve()
    try:
        text = read_text(path, "text_bytes")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(
            Problem(f"the plug-in cannot be read: {error}", Span(str(path)))
        ) from error
    known = _LOADED.pop(place, None)
    if known is not None and known.text == text:
        _LOADED[place] = known
        return
    _forget(known.types if known else ())
    name = f"caffe2flax_plugin_{len(_LOADED)}_{place.stem}"
    spec = spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        problem = Problem("a plug-in is a Python file, *.py", Span(str(path)))
        raise ConversionError(problem)
    module = module_from_spec(spec)
    before = set(LAYERS)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        _forget(set(LAYERS) - before)
        del sys.modules[name]
        raise ConversionError(_failure(error, path)) from error
    _LOADED[place] = Plugin(text, tuple(set(LAYERS) - before))
    OPERATIONS[str(place)] = text


def _forget(types: Iterable[str]) -> None:
    for type_ in types:
        LAYERS.pop(type_, None)
        PARAMETERS.pop(type_, None)


def _failure(error: Exception, path: Path) -> Problem:
    """The problem of an exception in a plug-in, at the last line in its file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).name == path.name]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    text = f"the plug-in fails: {type(error).__name__}: {error}"
    return Problem(text, Span(str(path), line, 1) if line else Span(str(path)))


@cache
def load_entry_points() -> None:
    """Loads the modules of installed packages. Raises ConversionError where one
    fails."""
    for point in sorted(entry_points(group=GROUP)):
        _load_point(point)


def _load_point(point: EntryPoint) -> None:
    before = set(LAYERS)
    try:
        point.load()
    except Exception as error:
        _forget(set(LAYERS) - before)
        text = (
            f"the entry point {point.name} = {point.value} of {GROUP} fails: "
            f"{type(error).__name__}: {error}"
        )
        raise ConversionError(Problem(text)) from error
    spec = find_spec(point.module)
    if spec is not None and spec.origin and spec.origin.endswith(".py"):
        source = Path(spec.origin)
        OPERATIONS[str(source)] = source.read_text(encoding="utf-8")
