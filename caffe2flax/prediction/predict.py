"""Predictions for image files, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.files.atomic import refuse_overwriting, write_all
from caffe2flax.ir.abilities import FindsObjects
from caffe2flax.ir.graph import Graph
from caffe2flax.prediction.batches import Batch, batch_size, rows, run_images
from caffe2flax.prediction.decode import Choice, decode_result
from caffe2flax.prediction.images import Recipe
from caffe2flax.prediction.kinds import Kind, Reading, read_as
from caffe2flax.prediction.results import Result
from caffe2flax.weights.safetensors import Progress

Convert = Callable[[Sequence[str]], Conversion]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the net says of a file. size: height and width of the photograph. written:
    the pictures of it that were written."""

    path: Path
    size: tuple[int, int]
    result: Result
    written: tuple[Path, ...] = ()


def readable(
    convert: Convert, kind: Kind | None, blob: str | None
) -> tuple[Conversion, Reading]:
    """The net with all blobs that are to be read as `kind`, and how. `convert` converts
    it with taps. Raises ConversionError."""
    conversion = convert((blob,) if blob else ())
    reading = read_as(conversion.graph, kind, blob)
    outputs = {value.blob for value in conversion.graph.outputs}
    taps = [name for name in reading.blobs if name not in outputs]
    if set(taps) - ({blob} if blob else set()):
        conversion = convert(taps)
    return conversion, reading


def predict(
    conversion: Conversion,
    reading: Reading,
    recipe: Recipe,
    files: Sequence[Path],
    choice: Choice | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Prediction | Problem]:
    """A prediction for each of `files`, in their order; the problem of a file that
    cannot be used follows those of its batch.

    conversion, reading: as `readable` gives them. recipe: how images are prepared.
    batch: images at once. Raises ConversionError where the net needs more than images,
    or does not have one result for each.
    """
    choice = choice or Choice()
    at_once = _batch(conversion.graph, reading, batch, len(files))
    size = reading.regions.size if reading.regions else None
    parts = run_images(
        conversion, recipe, files, reading.blobs, at_once, size=size, progress=progress
    )
    for part in parts:
        yield from _results(part, reading, recipe, choice, at_once)
        yield from part.problems


def _batch(graph: Graph, reading: Reading, wanted: int | None, images: int) -> int:
    """The batch size: 1 for boxes, which are not always numbered by image. Raises
    ConversionError."""
    if reading.kind != "detections":
        return batch_size(graph, wanted, images)
    count = batch_size(graph, wanted, 1)
    maker = reading.maker
    if count > 1 and not (isinstance(maker, FindsObjects) and maker.counts_images):
        text = f"the boxes of {reading.blob!r} do not say of which image they are"
        raise ConversionError(f"{text}: --batch 1, or --input-shape with a batch of 1")
    return count


def _results(
    part: Batch, reading: Reading, recipe: Recipe, choice: Choice, batch: int
) -> Iterator[Prediction]:
    if reading.kind != "detections":
        for name in reading.blobs if part.files else ():
            rows(part.blobs[name], name, batch)
    for place, (path, photo) in enumerate(zip(part.files, part.sizes, strict=True)):
        found = decode_result(reading, part.blobs, recipe, photo, choice, place)
        yield Prediction(path, photo, found)


def drawn(
    prediction: Prediction,
    folder: Path,
    taken: set[Path],
    names: Mapping[int, str],
    inputs: frozenset[tuple[int, int]] = frozenset(),
) -> Prediction:
    """The prediction with its pictures written to `folder`: NAME.png, and
    NAME_overlay.png for a map of labels, with a number where the name is `taken`.
    Raises OSError, and ConversionError where the photograph cannot be read any more, or
    where a picture would replace one of `inputs`, as `files.atomic.identities` has
    them."""
    from caffe2flax.prediction.painting import paint

    pictures = paint(prediction.path, prediction.result, names)
    stem = _free(prediction.path.stem, folder, taken, pictures)
    targets = {folder / f"{stem}{ending}.png": x for ending, x in pictures.items()}
    for path in targets:
        refuse_overwriting(inputs, path)
    taken.update(targets)
    write_all({path: _writer(data) for path, data in targets.items()}, force=True)
    return replace(prediction, written=tuple(targets))


def _writer(data: bytes) -> Callable[[Any], object]:
    return lambda stream: stream.write(data)


def _free(
    stem: str, folder: Path, taken: set[Path], endings: Mapping[str, bytes]
) -> str:
    """`stem`, with a number where another photograph has taken the name."""
    names = chain([stem], (f"{stem}-{i}" for i in count(2)))
    return next(
        name
        for name in names
        if not any(folder / f"{name}{ending}.png" in taken for ending in endings)
    )
