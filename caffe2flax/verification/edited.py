"""A module of an earlier conversion, perhaps edited since, to be verified."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from caffe2flax.codegen.sourcemap import SourceMap
from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.bounded import read_text
from caffe2flax.ir.syntax import parse_module
from caffe2flax.verification.match import carried_over
from caffe2flax.verification.observe import Observed, observe

Array = NDArray[Any]


def with_module(conversion: Conversion, path: Path, *, weighted: bool) -> Conversion:
    """`conversion` with the source in `path`, and with the weights in the .safetensors
    beside it where there is one and `weighted` says that the net has weights. Raises
    ConversionError where that is no module of this net."""
    span = Span(str(path))
    try:
        source = read_text(path, "text_bytes")
        names = [
            n.name for n in parse_module(source).body if isinstance(n, ast.ClassDef)
        ]
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 0
        reason = error.args[0] if isinstance(error, SyntaxError) else error
        text = f"this is no Python: {reason}"
        raise ConversionError(Problem(text, Span(str(path), line, 1))) from None
    wanted = (conversion.name, path.stem)
    name = next((n for w in wanted for n in names if n.lower() == w.lower()), None)
    if name is None:
        text = f"the module has no class {conversion.name}: give its --name"
        raise ConversionError(Problem(text, span))
    written = SourceMap.of(conversion.source, conversion.name)
    edited = SourceMap.of(source, name)
    positions = carried_over(conversion.positions, written, edited)
    if not positions and conversion.positions:
        text = "the module calls no layer of this net as convert would write it"
        raise ConversionError(Problem(text, span))
    weights: Mapping[str, Array] | None = conversion.weights
    beside = path.with_suffix(".safetensors")
    if weighted and beside.exists():
        weights = _stored(beside)
    return replace(
        conversion,
        name=name,
        source=source,
        weights=weights,  # type: ignore[arg-type]  # they are run, never written
        module=replace(conversion.module, positions=positions),
    )


def _stored(path: Path) -> Mapping[str, Array]:
    """The tensors of a .safetensors. Raises ConversionError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        text = f"this is no .safetensors file: {error}"
        raise ConversionError(Problem(text, Span(str(path)))) from None


def observe_edited(
    conversion: Conversion, inputs: Mapping[str, Array], *, path: Path
) -> Observed:
    """As `observe`, for a module that may fail halfway: returns the values before the
    failure, as one of their layers is likely at fault. Raises ConversionError where the
    module fails at once."""

    def explain(error: Exception) -> Problem:
        return _reason(conversion, error, path)

    try:
        return observe(conversion, inputs, explain)
    except ConversionError:
        raise
    except Exception as error:  # whatever an edited module raises
        raise ConversionError(_reason(conversion, error, path)) from error


def _reason(conversion: Conversion, error: Exception, path: Path) -> Problem:
    """The problem of `error`, at the line of the module that raised it."""
    file = f"<{conversion.name.lower()}.py>"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(frame.lineno or 0, 1) for frame in frames if frame.filename == file]
    reason = str(error).partition("\n")[0]
    text = f"the module fails: {type(error).__name__}: {reason}"
    return Problem(text, Span(str(path), *(lines or [(0, 0)])[-1]))
