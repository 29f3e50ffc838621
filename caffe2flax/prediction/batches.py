"""A net run on image files: a batch is read while the previous one is computed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.passes.transform import image_input
from caffe2flax.prediction.images import Recipe, decode
from caffe2flax.weights.safetensors import Progress

Array = NDArray[Any]

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
    value = image_input(graph)
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
    """`blobs`, outputs or taps, for all `files`, batch by batch. A file that cannot be
    used is a problem of its batch. size: the input that tells height, width and scale,
    where the net has one. Raises ConversionError where the net needs more inputs."""
    from caffe2flax.runner import forward

    graph = conversion.graph
    inputs = _others(graph, batch, size, recipe.size)
    name = image_input(graph).blob
    run = forward(conversion, list(blobs))
    done = 0
    for read in _ahead(recipe, files, batch):
        found: Mapping[str, Array] = {}
        if read.files:
            # Padded to the same shape, so that nothing is compiled again.
            found = run({**inputs, name: read.pixels.transpose(0, 3, 1, 2)})
        yield Batch(read.files, read.sizes, found, read.problems)
        done += len(read.files) + len(read.problems)
        if progress is not None:
            progress(done, len(files))


def _others(
    graph: Graph, batch: int, size: Value | None, extents: tuple[int, int]
) -> dict[str, Array]:
    """Height, width and scales of 1 for the input `size`, zeros for inputs that no
    layer reads, such as labels. Raises ConversionError for other inputs."""
    others = [v for v in graph.arguments if v != image_input(graph)]
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
    """(batch, H, W, C), zeros after the files."""
    problems: tuple[Problem, ...]


def _ahead(recipe: Recipe, files: Sequence[Path], batch: int) -> Iterator[_Read]:
    """Batches in the order of the files, each read before it is needed."""
    # The limits of this thread apply to the threads that read, too.
    chunks = (files[i : i + batch] for i in range(0, len(files), batch))
    threads = min(READERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Read]] = deque()

        def start(chunk: Sequence[Path]) -> None:
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


def _read(recipe: Recipe, files: Sequence[Path], batch: int) -> _Read:
    pixels = np.zeros((batch, *recipe.size, recipe.channels), np.float32)
    good: list[Path] = []
    sizes: list[tuple[int, int]] = []
    problems: list[Problem] = []
    for path in files:
        try:
            image = decode(path, recipe.channels)
            pixels[len(good)] = recipe.prepare(image)
        except ConversionError as error:
            problems += error.problems
        except OSError as error:
            reason = error.strerror or type(error).__name__
            problems.append(Problem(reason, Span(str(path))))
        else:
            good.append(path)
            sizes.append((image.shape[0], image.shape[1]))
    return _Read(tuple(good), tuple(sizes), pixels, tuple(problems))
