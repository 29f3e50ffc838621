"""A net run on image files: a batch is read while the previous one is computed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.passes.transform import image_inputs
from caffe2flax.prediction.images import Pixels, Recipe, decode
from caffe2flax.weights.safetensors import Progress

Array = NDArray[Any]

Frames = tuple[Path, ...]
"""The files of the net's image inputs."""

BATCH = 16
"""The batch size, where the net has no fixed one."""
READERS = 4
"""Threads that read images: decoders and numpy release the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The blobs for some files, and the problems of others.

    blobs: by name, in Caffe's axis order; without files there are none, and a batch
    that is not full has more rows than files. sizes: height and width of each file.
    """

    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    blobs: Mapping[str, Array]
    problems: tuple[Problem, ...]


def batch_size(graph: Graph, wanted: int | None, images: int) -> int:
    """The batch size: `wanted`, or the net's, or a default. Raises ConversionError
    where the net has another, fixed one."""
    value = image_inputs(graph)[0]
    own = graph.shapes[value][0]
    if graph.sizes.larger_batch[value] != graph.shapes[value]:
        return wanted or max(1, min(BATCH, images))
    if wanted not in (None, own):
        text = f"the net takes {own} images at once and no other number"
        raise ConversionError(f"{text}: leave out --batch")
    return own


def run_images(
    conversion: Conversion,
    recipe: Recipe,
    files: Sequence[Path],
    blobs: Sequence[str],
    batch: int,
    *,
    size: Value | None = None,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """`blobs`, outputs or taps, for all `files`, batch by batch; for each file and the
    next where the net has an input for either. A file that cannot be used is a problem
    of its batch. size: the input that tells height, width and scale,
    where the net has one. Raises ConversionError where the net needs more inputs."""
    from caffe2flax.runner import forward

    graph = conversion.graph
    inputs = _others(graph, batch, size, recipe.size)
    frames = [value.blob for value in image_inputs(graph)]
    items: list[tuple[Path, ...]] = [(path,) for path in files]
    if len(frames) > 1:
        items = list(pairwise(files))
    if not items:
        raise ConversionError("the net compares an image with the next: give two")
    run = forward(conversion, list(blobs))
    done, told = 0, set[Problem]()
    for read in _ahead(recipe, items, batch):
        found: Mapping[str, Array] = {}
        if read.files:
            # Padded to the same shape, so that nothing is compiled again.
            pixels = (array.transpose(0, 3, 1, 2) for array in read.pixels)
            found = run({**inputs, **dict(zip(frames, pixels, strict=True))})
        # A file that cannot be used is in two pairs.
        problems = [x for x in dict.fromkeys(read.problems) if x not in told]
        told.update(problems)
        yield Batch(read.files, read.sizes, found, tuple(problems))
        done += read.items
        if progress is not None:
            progress(done, len(items))


def _others(
    graph: Graph, batch: int, size: Value | None, extents: tuple[int, int]
) -> dict[str, Array]:
    """Height, width and scales of 1 for the input `size`, zeros for inputs that no
    layer reads, such as labels. Raises ConversionError for other inputs."""
    others = [v for v in graph.arguments if v not in image_inputs(graph)]
    needed = [v.blob for v in others if v in graph.readers() and v != size]
    if needed:
        raise ConversionError(f"the net needs more than images: {', '.join(needed)}")
    arrays = {
        value.blob: np.zeros((batch, *graph.shapes[value][1:]), np.float32)
        for value in others
    }
    if size is not None:
        told = np.ones(graph.shapes[size], np.float32)
        told.reshape(-1)[:2] = extents
        arrays[size.blob] = told
    return arrays


def rows(blob: Array, name: str, batch: int) -> Array:
    """`blob`, which must have a row for each image. Raises ConversionError."""
    if blob.ndim and len(blob) == batch:
        return blob
    text = f"{name!r} of shape {blob.shape} has no row for each of {batch} images"
    raise ConversionError(text)


class _Read(NamedTuple):
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    pixels: Array
    """(frames, batch, H, W, C), zeros after the files."""
    problems: tuple[Problem, ...]
    items: int


def _ahead(recipe: Recipe, items: Sequence[Frames], batch: int) -> Iterator[_Read]:
    """Batches in the order of the items, each read before it is needed."""
    # The limits of this thread apply to the threads that read, too.
    chunks = (items[i : i + batch] for i in range(0, len(items), batch))
    threads = min(READERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Read]] = deque()

        def start(chunk: Sequence[Frames]) -> None:
            read = copy_context().run
            waiting.append(pool.submit(read, _read, recipe, chunk, batch))

        try:
            for chunk in islice(chunks, threads + 1):
                start(chunk)
            while waiting:
                read = waiting.popleft().result()
                for chunk in islice(chunks, 1):
                    start(chunk)
                yield read
        finally:
            for future in waiting:
                future.cancel()


def _read(recipe: Recipe, items: Sequence[Frames], batch: int) -> _Read:
    shape = (len(items[0]), batch, *recipe.size, recipe.channels)
    pixels = np.zeros(shape, np.float32)
    good: list[Path] = []
    sizes: list[tuple[int, int]] = []
    problems: list[Problem] = []
    for paths in items:
        try:
            images = [_decoded(path, recipe.channels) for path in paths]
        except ConversionError as error:
            problems += error.problems
            continue
        for frame, image in enumerate(images):
            pixels[frame, len(good)] = recipe.prepare(image)
        good.append(paths[0])
        sizes.append((images[0].shape[0], images[0].shape[1]))
    return _Read(tuple(good), tuple(sizes), pixels, tuple(problems), len(items))


def _decoded(path: Path, channels: int) -> Pixels:
    """The image; ConversionError where it cannot be read."""
    try:
        return decode(path, channels)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConversionError(Problem(reason, Span(str(path)))) from None
