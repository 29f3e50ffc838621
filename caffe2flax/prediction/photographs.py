"""Predictions for photographs, from the files of a net to what it says of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion, Weights, convert, weight_paths
from caffe2flax.display import markup
from caffe2flax.errors import ConversionError, Problem, optional
from caffe2flax.files.atomic import identities
from caffe2flax.frontend.source import PathOrText, at_hand, is_text
from caffe2flax.frontend.stages import deploy_stages
from caffe2flax.options import NetOptions, check_options, one_or_more
from caffe2flax.prediction import images as photos
from caffe2flax.prediction import tables
from caffe2flax.prediction.decode import Choice
from caffe2flax.prediction.kinds import Kind, Reading
from caffe2flax.prediction.predict import Prediction, drawn, readable
from caffe2flax.prediction.predict import predict as predict_files
from caffe2flax.prediction.preparation import read_labels, read_mean, recipe
from caffe2flax.weights.safetensors import Progress

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Request:
    """How images are prepared, and what is read, kept and drawn of the result: the
    arguments of `predict`, with the mean as an array."""

    kind: Kind | None = None
    blob: str | None = None
    labels: PathLike | Sequence[str] = ()
    top: int = 5
    threshold: float = 0.5
    points: str = "xy"
    output: Path | None = None
    mean: NDArray[Any] | None = None
    scale: float | None = None
    channel_order: str | None = None
    crop: bool = False
    resize: tuple[int, int] | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Predictions:
    """What a net says of photographs.

    kind: what its output was read as. blob: that output. images: the results, in the
    order of the files. names: those of classes and points, by number. problems: files
    that cannot be used. notes: what was assumed.
    """

    kind: Kind
    blob: str
    images: tuple[Prediction, ...]
    names: Mapping[int, str]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[dict[str, object], ...]:
        """A dict for each class, box or point of each image, as predict --csv has
        them."""
        return tuple(
            {"image": str(each.path), **row}
            for each in self.images
            for row in tables.records(each.result, self.names)
        )

    def __repr__(self) -> str:
        count = len(self.images)
        return f"Predictions({self.kind} by {self.blob}, {count:,} images)"

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of the rows."""
        facts = (
            ("images", f"{len(self.images):,}"),
            *(("problem", problem) for problem in self.problems),
            *markup.noted(self.notes),
        )
        titles = tuple(dict.fromkeys(key for row in self.rows for key in row))
        rows = [[_cell(row.get(key, "")) for key in titles] for row in self.rows]
        shown = markup.table(titles, rows) if rows else ""
        return markup.card(f"{self.kind} by {self.blob}", facts, shown)


def predict(
    prototxt: PathOrText,
    weights: Weights | None,
    images: PathLike | Sequence[PathLike],
    *,
    kind: Kind | None = None,
    blob: str | None = None,
    labels: PathLike | Sequence[str] = (),
    top: int = 5,
    threshold: float = 0.5,
    points: Literal["xy", "xxyy"] = "xy",
    output: PathLike | None = None,
    mean_file: PathLike | None = None,
    channel_order: Literal["BGR", "RGB"] | None = None,
    crop: bool = False,
    resize: tuple[int, int] | None = None,
    batch: int | None = None,
    **options: Unpack[NetOptions],
) -> Predictions:
    """What a net says of image files, or of all files in folders: classes, boxes, label
    maps, points, images or flow.

    kind: what the output holds, such as "detections"; by default what follows from the
    net's layers. blob: the blob that is read, by default the only output of its kind.
    labels: the names of the classes, or a file with one a line. top: classes of each
    image. threshold: the least score of a box or a peak. points: whether coordinates
    are x and y in turn or all x first. output: a folder for pictures, which replace
    files of their names.

    mean_file: .binaryproto or .npy, in place of the option `mean`. channel_order: of
    the net's input; B, G, R is assumed. crop: take the middle of a larger image, of
    height and width `resize`. batch: images at once. Options: see `caffe2flax.options`.
    Raises ConversionError, and OSError for `output`; what is wrong with single images
    is in `problems`.
    """
    check_options(options, NetOptions)
    chosen = options.copy()
    numbers, scale = chosen.pop("mean", None), chosen.pop("scale", None)
    mean = None if numbers is None else np.array(one_or_more(numbers))
    request = Request(
        kind,
        blob,
        labels,
        top,
        threshold,
        points,
        None if output is None else Path(output),
        mean if mean_file is None else read_mean(Path(mean_file)),
        scale,
        channel_order,
        crop,
        resize,
        batch,
    )
    files = list(photos.find(Path(path) for path in one_or_more(images)))
    with opened_images():
        found, parts = begin(at_hand(prototxt), weights, files, request, chosen)
        predictions: list[Prediction] = []
        problems: list[Problem] = []
        for part in parts:
            if isinstance(part, Problem):
                problems.append(part)
            else:
                predictions.append(part)
    return replace(found, images=tuple(predictions), problems=tuple(problems))


def begin(
    source: PathOrText,
    weights: Weights | None,
    files: Sequence[Path],
    request: Request,
    options: NetOptions,
    progress: Progress | None = None,
) -> tuple[Predictions, Iterator[Prediction | Problem]]:
    """What is known before the first image, and the prediction or the problem of each
    of `files`. Raises as `predict` does, before the first and in iterating."""
    conversion, reading = readable(
        lambda taps: converted(source, weights, taps, options),
        request.kind,
        request.blob,
    )
    if request.output is not None and reading.kind == "classes":
        text = "classes are not drawn: leave out the folder for pictures (-o, `output`)"
        raise ConversionError(text)
    prepared, notes = prepare(conversion, request)
    names = _names(request.labels, reading.classes)
    if reading.kind == "keypoints":
        notes = (*notes, *_points(reading, request.points))
    choice = Choice(request.top, request.threshold, request.points == "xxyy")
    parts = predict_files(
        conversion, reading, prepared, files, choice, request.batch, progress
    )
    found = Predictions(reading.kind, reading.blob, (), names, (), notes)
    if request.output is None:
        return found, parts
    net = () if is_text(source) else (Path(source),)
    inputs = identities((*net, *map(Path, weight_paths(weights)), *files))
    return found, _drawn(parts, request.output, names, inputs)


def _drawn(
    parts: Iterable[Prediction | Problem],
    folder: Path,
    names: Mapping[int, str],
    inputs: frozenset[tuple[int, int]],
) -> Iterator[Prediction | Problem]:
    taken: set[Path] = set()
    for part in parts:
        if isinstance(part, Problem):
            yield part
        else:
            yield drawn(part, folder, taken, names, inputs)


def converted(
    source: PathOrText,
    weights: Weights | None,
    taps: Sequence[str],
    options: NetOptions,
) -> Conversion:
    """The net that predicts: of one with stages, the stage that is deployed."""
    phase = options.get("phase", "TEST")
    stages = deploy_stages(source, options.get("stages", ()), phase)
    chosen: NetOptions = {**options, "stages": stages}
    return convert(source, weights, taps=tuple(taps), **chosen)


def prepare(
    conversion: Conversion, request: Request
) -> tuple[photos.Recipe, tuple[str, ...]]:
    """How images become the net's input, and notes about it. Raises ConversionError."""
    order = request.channel_order
    return recipe(
        conversion.graph,
        mean=request.mean,
        scale=request.scale,
        cropped=request.crop,
        resized=request.resize,
        rgb=None if order is None else order == "RGB",
    )


@contextmanager
def opened_images() -> Iterator[None]:
    """Pillow's warnings of large images are no news: their size has a limit of its own.
    Raises ConversionError where Pillow is not installed."""
    with optional("an image", "Pillow", "predict"):
        from PIL import Image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _points(reading: Reading, points: str) -> tuple[str, ...]:
    if len(reading.shape) == 4 and max(reading.shape[2:]) > 1:
        return ()
    order = "all x, then all y" if points == "xxyy" else "x and y in turn"
    text = f"assumed: {reading.blob!r} is {order} (--points), in parts of the input, or"
    return (f"{text} in its pixels where a number is above 2",)


def _names(labels: PathLike | Sequence[str], classes: range) -> Mapping[int, str]:
    if not isinstance(labels, str | os.PathLike):
        return dict(enumerate(labels, classes.start))
    return read_labels(Path(labels), classes)


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
