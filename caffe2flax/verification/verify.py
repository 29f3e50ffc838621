"""A net converted, run, and compared with what Caffe computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
from caffe2flax.verification.inputs import noise, noise_blobs, photo, read_arrays
from caffe2flax.verification.observe import observe
from caffe2flax.verification.report import (
    Report,
    Watch,
    verify_conversion,
    with_compiled,
)

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
    if image is not None:
        arrays = {**photo(graph, image), **arrays}
    watch: Watch = observe
    if module is not None:
        watch = partial(observe_edited, path=Path(module))
        weighted = bool(weights or own)
        conversion = with_module(conversion, Path(module), weighted=weighted)
    report = verify_conversion(
        conversion,
        noise(graph, arrays),
        watch,
        files=(
            os.fspath(prototxt),
            [os.fspath(path) for path in weight_paths(weights)] or own,
        ),
        against=against,
        tolerance=tolerance,
        level=options.get("level", 0),
        stages=one_or_more(options.get("stages", ())),
        notes=[note for note in conversion.notes if note == RANDOM_WEIGHTS],
    )
    if compiled and report.stop is None:
        compiled_outputs = forward(conversion, strict=True)(report.inputs)
        report = with_compiled(report, compiled_outputs)
    return report
