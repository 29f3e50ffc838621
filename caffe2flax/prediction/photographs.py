"""Predictions for photographs, from the files of a net to what it says of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack

import numpy as np

from caffe2flax.conversion import Conversion, Weights, convert, weight_paths
from caffe2flax.display import markup
from caffe2flax.errors import ConversionError, Problem, optional
from caffe2flax.files.atomic import identities
from caffe2flax.frontend.source import PathOrText, at_hand, is_text
from caffe2flax.options import NetOptions, check_options, one_or_more
from caffe2flax.prediction import images as photos
from caffe2flax.prediction import tables
from caffe2flax.prediction.decode import Choice
from caffe2flax.prediction.kinds import Kind
from caffe2flax.prediction.predict import Prediction, drawn, readable
from caffe2flax.prediction.predict import predict as predict_files
from caffe2flax.prediction.preparation import read_labels, read_mean, recipe

PathLike = str | os.PathLike[str]


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
    with optional("an image", "Pillow", "predict"):
        from PIL import Image

    source = at_hand(prototxt)
    files = list(photos.find(Path(path) for path in one_or_more(images)))

    def converted(taps: Sequence[str]) -> Conversion:
        return convert(source, weights, taps=tuple(taps), **chosen)

    conversion, reading = readable(converted, kind, blob)
    if output is not None and reading.kind == "classes":
        raise ConversionError("pictures are not drawn of classes: leave out `output`")
    prepared, notes = recipe(
        conversion.graph,
        mean=mean if mean_file is None else read_mean(Path(mean_file)),
        scale=scale,
        cropped=crop,
        resized=resize,
        rgb=None if channel_order is None else channel_order == "RGB",
    )
    names = _names(labels, reading.classes)
    choice = Choice(top, threshold, points == "xxyy")
    net = () if is_text(source) else (Path(source),)
    inputs = identities((*net, *map(Path, weight_paths(weights)), *files))
    found = Predictions(reading.kind, reading.blob, (), names, (), notes)
    taken: set[Path] = set()
    with warnings.catch_warnings():
        # The size of images has a limit of its own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for part in predict_files(conversion, reading, prepared, files, choice, batch):
            if isinstance(part, Problem):
                found = replace(found, problems=(*found.problems, part))
                continue
            if output is not None:
                part = drawn(part, Path(output), taken, names, inputs)
            found = replace(found, images=(*found.images, part))
    return found


def _names(labels: PathLike | Sequence[str], classes: range) -> Mapping[int, str]:
    if not isinstance(labels, str | os.PathLike):
        return dict(enumerate(labels, classes.start))
    return read_labels(Path(labels), classes)


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
