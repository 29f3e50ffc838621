"""A net run on image files: a batch is read while the previous one is computed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, Span, closest
from caffe2flax.ir.graph import Graph
from caffe2flax.passes.transform import image_input
from caffe2flax.prediction.images import Recipe
from caffe2flax.weights.safetensors import Progress

Array = NDArray[Any]

BATCH = 16
"""The batch size, where the net has no fixed one."""
READERS = 4
"""Threads that read images: decoders and numpy release the interpreter's lock."""


class Ranked(NamedTuple):
    """A class by number, and its score."""

    number: int
    score: float


@dataclass(frozen=True, slots=True)
class Batch:
    """The results for some files, and the problems of others.

    rows: (files, ...), in Caffe's axis order.
    """

    files: tuple[Path, ...]
    rows: Array
    problems: tuple[Problem, ...]


def score_blob(graph: Graph, blob: str | None) -> str:
    """The name of the output with a score for each class: `blob`, or the only output.
    Raises ConversionError."""
    names = [v.blob for v in graph.outputs if v not in graph.arguments]
    if blob is None and len(names) != 1:
        text = f"the net has several outputs, {', '.join(names)}"
        raise ConversionError(f"{text}: choose one with --scores BLOB")
    name = blob or names[0]
    if name not in graph.blobs:
        hint = closest(name, graph.blobs)
        raise ConversionError(f"the net has no blob {name!r}{hint}")
    shape = graph.shapes[graph.blobs[name]]
    if len(shape) < 2 or prod(shape[1:]) != shape[1]:
        text = f"{name!r} of shape {shape} holds no score for each class"
        raise ConversionError(f"{text}; --features {name} writes it as it is")
    return name


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


def rank(scores: Array, count: int) -> list[list[Ranked]]:
    """The `count` best classes of each row of (N, classes), the best first; the lower
    number where two are equal."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [
        [Ranked(int(number), float(row[number])) for number in best]
        for best, row in zip(order, scores, strict=True)
    ]


def run_images(
    conversion: Conversion,
    recipe: Recipe,
    files: Sequence[Path],
    blob: str,
    batch: int,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """`blob`, an output or a tap, for all `files`, batch by batch. A file that cannot
    be used is a problem of its batch. Raises ConversionError where the blob does not
    have one row for each image."""
    from caffe2flax.runner import forward

    graph = conversion.graph
    inputs = _others(graph, batch)
    name = image_input(graph).blob
    run = forward(conversion, [blob])
    done = 0
    for read in _ahead(recipe, files, batch):
        rows = np.zeros((0, *graph.shapes[graph.blobs[blob]][1:]), np.float32)
        if read.files:
            # Padded to the same shape, so that nothing is compiled again.
            pixels = read.pixels.transpose(0, 3, 1, 2)
            result = run({**inputs, name: pixels})[blob]
            rows = _rows(result, blob, batch)[: len(read.files)]
        yield Batch(read.files, rows, read.problems)
        done += len(read.files) + len(read.problems)
        if progress is not None:
            progress(done, len(files))


def _others(graph: Graph, batch: int) -> dict[str, Array]:
    """Zeros for inputs that no layer reads, such as labels. Raises ConversionError for
    other inputs."""
    others = [v for v in graph.arguments if v != image_input(graph)]
    needed = [value.blob for value in others if value in graph.readers()]
    if needed:
        raise ConversionError(f"the net needs more than images: {', '.join(needed)}")
    return {
        value.blob: np.zeros((batch, *graph.shapes[value][1:]), np.float32)
        for value in others
    }


def _rows(blob: Array, name: str, batch: int) -> Array:
    if blob.ndim and len(blob) == batch:
        return blob
    text = f"{name!r} of shape {blob.shape} has no row for each of {batch} images"
    raise ConversionError(text)


class _Read(NamedTuple):
    files: tuple[Path, ...]
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
    problems: list[Problem] = []
    for path in files:
        try:
            pixels[len(good)] = recipe.read(path)
        except ConversionError as error:
            problems += error.problems
        except OSError as error:
            reason = error.strerror or type(error).__name__
            problems.append(Problem(reason, Span(str(path))))
        else:
            good.append(path)
    return _Read(tuple(good), pixels, tuple(problems))
