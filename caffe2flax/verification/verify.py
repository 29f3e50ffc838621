"""A net converted, run, and compared with what Caffe computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import (
    RANDOM_WEIGHTS,
    Weights,
    convert,
    weight_paths,
)
from caffe2flax.frontend.source import PathOrText, at_hand, carries_weights
from caffe2flax.frontend.stages import deploy_stages
from caffe2flax.options import ConversionOptions, one_or_more
from caffe2flax.runner import check_compiles, forward
from caffe2flax.verification.edited import observe_edited, with_module
from caffe2flax.verification.evidence import collect_evidence
from caffe2flax.verification.inputs import (
    NOISE,
    noise,
    noise_blobs,
    prepare_photo,
    read_arrays,
)
from caffe2flax.verification.observe import device, observe
from caffe2flax.verification.report import (
    Report,
    Watch,
    verify_conversion,
    with_compiled,
)
from caffe2flax.weights.safetensors import Progress

Array = NDArray[Any]


def verify(
    prototxt: PathOrText,
    weights: Weights | None,
    *,
    inputs: Mapping[str, Array] | str | os.PathLike[str] | None,
    image: str | os.PathLike[str] | None,
    against: str,
    tolerance: float,
    module: str | os.PathLike[str] | None,
    compiled: bool,
    progress: Progress | None = None,
    **options: Unpack[ConversionOptions],
) -> Report:
    """See `caffe2flax.verify`."""
    arrays = read_arrays(inputs)
    prototxt = at_hand(prototxt)
    if module is None:
        chosen = options.get("stages", ()), options.get("phase", "TEST")
        options["stages"] = deploy_stages(prototxt, *chosen)
    conversion = convert(
        prototxt,
        weights,
        array_shapes={blob: np.shape(array) for blob, array in arrays.items()},
        filled=True,
        default_blobs=noise_blobs,
        **options,
    )
    graph = conversion.graph
    carried = carries_weights(prototxt)
    own = [os.fspath(prototxt)] if carried else []
    if compiled:
        check_compiles(graph)
    recipe = [] if inputs is None else [_arrays(inputs)]
    notes = [note for note in conversion.notes if note == RANDOM_WEIGHTS]
    prepared = None
    if image is not None:
        prepared = prepare_photo(graph, image)
        arrays = {**prepared.arrays, **arrays}
        recipe.append(prepared.words)
    watch: Watch = observe
    if module is not None:
        watch = partial(observe_edited, path=Path(module))
        weighted = bool(weights or own)
        conversion = with_module(conversion, Path(module), weighted=weighted)
    weight_files = [os.fspath(path) for path in weight_paths(weights)] or own
    report = verify_conversion(
        conversion,
        noise(graph, arrays),
        watch,
        files=(os.fspath(prototxt), weight_files),
        against=against,
        tolerance=tolerance,
        level=options.get("level", 0),
        stages=one_or_more(options.get("stages", ())),
        notes=notes,
        photo=prepared,
        progress=progress,
    )
    if compiled and report.stop is None:
        compiled_outputs = forward(conversion, strict=True)(report.inputs)
        report = with_compiled(report, compiled_outputs)
    if report.inputs.keys() - arrays.keys():
        recipe.append(NOISE)
    evidence = collect_evidence(
        prototxt,
        [] if carried else weight_files,
        conversion.source,
        None if module is None else Path(module),
        report.inputs,
        "; otherwise ".join(recipe),
        against,
        device(),
    )
    return replace(report, evidence=evidence)


def _arrays(inputs: Mapping[str, Array] | str | os.PathLike[str]) -> str:
    if isinstance(inputs, str | os.PathLike):
        return f"the arrays of {os.fspath(inputs)}"
    return "arrays that the caller gave"
