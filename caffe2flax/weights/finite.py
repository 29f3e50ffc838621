"""Weights that are no numbers: kept as they are, and reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.files.mapped import blocks
from caffe2flax.ir.graph import Weight

Array = NDArray[Any]

BLOCK = 2**16
"""Values that are looked at together: they stay in the cache."""

MAX_SHOWN = 8


def note_not_finite(blobs: Mapping[Weight, Array]) -> tuple[str, ...]:
    """A note on the blobs with NaN or infinity in them; none where all are well."""
    found = {weight: _counts(blob) for weight, blob in blobs.items()}
    listed = [
        f"layer {weight.layer!r} blob {weight.index} ({nans} NaN, {infinite} infinite "
        f"of {blobs[weight].size})"
        for weight, (nans, infinite) in found.items()
        if nans or infinite
    ]
    if not listed:
        return ()
    more = f" and {len(listed) - MAX_SHOWN} more" if len(listed) > MAX_SHOWN else ""
    shown = ", ".join(listed[:MAX_SHOWN])
    return (f"weights that are no finite float32 numbers are kept: {shown}{more}",)


def _counts(blob: Array) -> tuple[int, int]:
    """How many are NaN, and how many infinite once they are float32."""
    nans = infinite = 0
    for block in blocks(blob, BLOCK):
        with np.errstate(over="ignore"):
            values = block.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            nans += int(np.isnan(values).sum())
            infinite += int(np.isinf(values).sum())
    return nans, infinite
