"""How images are prepared: by the fields of the prototxt, and the caller's
arguments."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.bounded import is_pipe, read_bytes
from caffe2flax.files.npz import npy_array, read_npy
from caffe2flax.frontend.caffemodel import binaryproto, read_binaryproto
from caffe2flax.frontend.wire import Wire
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.transform import Transform
from caffe2flax.passes.transform import image_inputs
from caffe2flax.prediction.images import Floats, Recipe, crop

NUMPY_MAGIC = b"\x93NUMPY"

USUAL = 256
"""Height and width of the images that Caffe's ImageNet recipes crop from."""


def read_mean(path: Path) -> NDArray[Any]:
    """A mean file: .npy, or .binaryproto as Caffe writes it, out of a pipe perhaps.
    Raises ConversionError."""
    if is_pipe(path):
        data = read_bytes(path, "piped_bytes")
        if data.startswith(NUMPY_MAGIC):
            mean = npy_array(io.BytesIO(data), path)
        else:
            mean = binaryproto(Wire(str(path), data))
    else:
        mean = read_npy(path) if path.suffix == ".npy" else read_binaryproto(path)
    return mean[0] if mean.ndim == 4 and len(mean) == 1 else mean


def recipe(
    graph: Graph,
    *,
    mean: NDArray[Any] | None = None,
    scale: float | None = None,
    cropped: bool = False,
    resized: tuple[int, int] | None = None,
    rgb: bool | None = None,
) -> tuple[Recipe, tuple[str, ...]]:
    """How images become the net's input, and notes about it.

    mean: (C,), (C, H, W), or (H, W) for gray; with scale, in place of the net's own.
    cropped: the middle of an image of height and width `resized`, or those of the mean,
    or of the prototxt, or 256 where the input is a little smaller. rgb: whether the
    channels are R, G, B; None assumes B, G, R. Raises ConversionError.
    """
    value = image_inputs(graph)[0]
    _, channels, *extents = graph.shapes[value]
    size = (extents[0], extents[1])
    transform = graph.transforms.get(value.blob, Transform())
    if transform.mean_file and mean is None:
        text = f"the net subtracts the mean of {transform.mean_file!r}, a file that is"
        raise ConversionError(f"{text} not opened by itself: give it with --mean")
    if mean is None and transform.mean_value:
        mean = np.array(transform.mean_value)
    if mean is not None:
        mean = _per_channel(mean, channels)
    before = size
    if cropped or resized or all(transform.crop):
        spatial = mean.shape[1:] if mean is not None and mean.ndim == 3 else (0, 0)
        before = _before(size, resized, (spatial[0], spatial[1]), transform.resize)
    notes = list(_assumed(mean is None, channels == 3 and rgb is None))
    if mean is not None and mean.ndim == 3 and mean.shape[1:] not in (before, size):
        own = mean.shape[1:]
        its = f"{own[0]} x {own[1]}"
        mean = mean.mean(axis=(1, 2), dtype=np.float64)
        shown = ", ".join(f"{value:.6g}" for value in mean)
        text = f"the mean is {its}, the image {before[0]} x {before[1]}: "
        text += f"its mean of each channel ({shown}) is subtracted from all pixels"
        if before == size and own[0] >= size[0] and own[1] >= size[1]:
            text += f"; with --crop the image is resized to {its}, and the middle "
            text += "of both is taken"
        notes.append(text)
    factor = transform.scale if scale is None else scale
    means = _pixelwise(mean, size)
    return Recipe(channels, size, before, means, factor, bool(rgb)), tuple(notes)


def _assumed(no_mean: bool, order: bool) -> Iterator[str]:
    """One line on what neither the net nor the caller says."""
    parts = []
    if no_mean:
        parts.append(
            "no mean is subtracted, as neither the net nor --mean gives one; most nets "
            "were trained with one: --mean FILE.binaryproto, or --mean B,G,R"
        )
    if order:
        parts.append(
            "the channels are B, G, R, as everywhere in Caffe, unless --channel-order "
            "RGB says otherwise"
        )
    if parts:
        yield "assumed: " + "; ".join(parts)


def _per_channel(mean: NDArray[Any], channels: int) -> NDArray[Any]:
    """(C,) or (C, H, W). Raises ConversionError."""
    if mean.ndim == 2 and channels == 1:
        mean = mean[None]
    if mean.shape == (1,):
        mean = np.repeat(mean, channels)
    if mean.ndim not in (1, 3) or len(mean) != channels:
        text = f"a mean of shape {mean.shape} does not fit images of {channels} "
        raise ConversionError(f"{text}channels: (C,) or (C, H, W) does")
    return mean


def _pixelwise(mean: NDArray[Any] | None, size: tuple[int, int]) -> Floats | None:
    """The mean (H, W, C), as it is subtracted from the cropped image."""
    if mean is None or not mean.any():
        return None
    if mean.ndim == 3:
        mean = crop(mean.transpose(1, 2, 0), size)
    return np.array(np.broadcast_to(mean, (*size, mean.shape[-1])), np.float32)


def _before(size: tuple[int, int], *choices: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that images are resized to before they are cropped: the first
    choice that is given. Raises ConversionError."""
    before = next((choice for choice in choices if choice and any(choice)), None)
    if before is None:
        if not all(USUAL * 3 // 4 <= extent <= USUAL for extent in size):
            text = "to crop to {} x {}, say to what images are resized before it"
            raise ConversionError(f"{text.format(*size)}: --resize HEIGHT,WIDTH")
        return (USUAL, USUAL)
    if before[0] < size[0] or before[1] < size[1]:
        text = "an image resized to {} x {} is too small to crop {} x {} from"
        raise ConversionError(text.format(*before, *size))
    return before


def read_labels(path: Path, classes: range) -> dict[int, str]:
    """The names of the classes, a line each; the first line may name the background,
    which is none of them. Raises ConversionError for another number of lines."""
    text = read_bytes(path, "text_bytes").decode("utf-8-sig", "replace")
    names = [line.strip() for line in text.rstrip().split("\n")]
    if classes and len(names) not in (len(classes), classes.stop):
        message = f"{len(names)} labels for {len(classes)} classes"
        raise ConversionError(Problem(message, Span(str(path))))
    first = classes.start if len(names) == len(classes) else 0
    return dict(enumerate(names, first))
