"""The command predict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe2flax.cli.arguments import (
    add_command,
    add_json,
    add_labels,
    add_preparation,
    add_selection,
    count,
    number,
    numbers_or_path,
    selection,
)
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import Outcome, lines, noted
from caffe2flax.errors import ConversionError, Problem

if TYPE_CHECKING:
    from caffe2flax.prediction.photographs import Request

USAGE = "predict NET.prototxt WEIGHTS.caffemodel IMAGE ..."
NOTES = """\
examples:
  caffe2flax predict net.prototxt net.caffemodel cat.jpg --mean 104,117,123
  caffe2flax predict net.prototxt net.caffemodel photos --csv --labels words.txt
  caffe2flax predict ssd.prototxt ssd.caffemodel photos --mean 104,117,123 -o boxed
  caffe2flax predict net.prototxt net.caffemodel photos --features fc7 -o fc7.npz

An image is decoded to B, G, R, resized as OpenCV does (bilinear) to the input's size,
the mean is subtracted, and the rest multiplied by the scale. With --crop it is resized
to something larger and the middle is taken. What the net's transform_param says is the
default. Files that are no images are named and passed over; the exit status is 1 then.
What the outputs hold follows from the layers that compute them, or --as says it.
"""


KINDS = ("classes", "detections", "labels", "keypoints", "image", "flow")
"""Those of prediction/kinds.py, which would take time to import."""


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "run a net on image files", NOTES, run)
    command.add_argument(
        "net", metavar="NET.prototxt", type=Path, help="the architecture"
    )
    command.add_argument(
        "weights", metavar="WEIGHTS.caffemodel", type=Path, help="the weights"
    )
    command.add_argument(
        "images",
        metavar="IMAGE",
        type=Path,
        nargs="+",
        help="a file, or a folder for all files in it",
    )
    _add_preparation(command)
    _add_result(command)
    add_selection(command)


def _add_preparation(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how images are prepared")
    group.add_argument(
        "--mean",
        metavar="FILE.binaryproto|FILE.npy|B,G,R",
        type=numbers_or_path,
        help="what is subtracted, in the order of the net's channels",
    )
    group.add_argument(
        "--crop",
        action="store_true",
        help="take the middle of a larger image: of the mean's size, or 256 x 256",
    )
    add_preparation(group)


def _add_result(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what is shown")
    group.add_argument(
        "--as",
        dest="kind",
        choices=KINDS,
        help="what the output holds (default: what follows from the net's layers)",
    )
    group.add_argument(
        "--blob",
        metavar="BLOB",
        help="the blob that is shown (default: the only output of its kind)",
    )
    add_labels(group)
    group.add_argument(
        "--top", metavar="K", type=count, default=5, help="classes shown (default: 5)"
    )
    group.add_argument(
        "--threshold",
        metavar="SCORE",
        type=number,
        default=0.5,
        help="the least score of a box or a peak that is shown (default: 0.5)",
    )
    group.add_argument(
        "--points",
        choices=("xy", "xxyy"),
        default="xy",
        help="coordinates of keypoints: x and y in turn, or all x first (default: xy)",
    )
    group.add_argument(
        "--batch", metavar="N", type=count, help="images at once (default: up to 16)"
    )
    form = group.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    add_json(form)
    group.add_argument(
        "--features", metavar="BLOB", help="write a blob as it is, a row for each image"
    )
    group.add_argument(
        "-o",
        dest="output",
        metavar="FOLDER|OUT.npz",
        type=Path,
        help="where pictures go, or --features; files that exist are replaced",
    )


def run(options: argparse.Namespace) -> Outcome:
    """Prints what the net says of every image, or the path of the written features."""
    from caffe2flax.prediction import images
    from caffe2flax.prediction.photographs import opened_images

    if options.features is not None and options.output is None:
        raise ConversionError("--features BLOB needs -o OUT.npz")
    with opened_images():
        files = list(images.find(options.images))
        job = _features if options.features is not None else _predictions
        with Bar("predicting", "images") as bar:
            return job(options, files, bar)


def _predictions(
    options: argparse.Namespace, files: Sequence[Path], bar: Bar
) -> Outcome:
    from caffe2flax.prediction import tables
    from caffe2flax.prediction.photographs import begin

    head, parts = begin(
        options.net,
        options.weights,
        files,
        _request(options),
        selection(options),
        bar,
    )
    found: list[tables.Shown] = []
    problems: list[Problem] = []
    for part in parts:
        # Maps of labels are large: of each image the rows that are printed are kept.
        if isinstance(part, Problem):
            problems.append(part)
        else:
            found.append(tables.shown(part, head.names))
    if options.json:
        text = tables.as_json(head.kind, head.blob, found, problems, head.notes)
        return Outcome(text, tuple(problems), data=True)
    if options.csv:
        text = tables.as_csv(head.kind, found)
        shown = lines(text) if sys.stdout.isatty() else text
        return Outcome(shown, tuple(problems), data=True)
    text = tables.as_text(head.kind, found)
    return Outcome(lines(text, *noted(head.notes if text else ())), tuple(problems))


def _request(options: argparse.Namespace) -> Request:
    import numpy as np

    from caffe2flax.prediction.photographs import Request
    from caffe2flax.prediction.preparation import read_mean

    mean = None if options.mean is None else np.array(options.mean)
    return Request(
        options.kind,
        options.blob,
        options.labels,
        options.top,
        options.threshold,
        options.points,
        options.output,
        read_mean(options.mean) if isinstance(options.mean, Path) else mean,
        options.scale,
        options.channel_order,
        options.crop,
        options.resize,
        options.batch,
    )


def _features(options: argparse.Namespace, files: Sequence[Path], bar: Bar) -> Outcome:
    """Writes the blob, with a row for each image, and the images' names."""
    import numpy as np

    from caffe2flax.files.atomic import identities, refuse_overwriting
    from caffe2flax.files.npz import write_npz
    from caffe2flax.prediction.batches import batch_size, rows, run_images
    from caffe2flax.prediction.photographs import converted, prepare

    inputs = identities((options.net, options.weights, *files))
    refuse_overwriting(inputs, options.output)
    blob = options.features
    request = _request(options)
    conversion = converted(options.net, options.weights, (blob,), selection(options))
    recipe, notes = prepare(conversion, request)
    graph = conversion.graph
    batch = batch_size(graph, options.batch, len(files))
    found = [np.zeros((0, *graph.shapes[graph.blobs[blob]][1:]), np.float32)]
    names: list[str] = []
    problems: list[Problem] = []
    for part in run_images(conversion, recipe, files, [blob], batch, progress=bar):
        if part.files:
            found.append(rows(part.blobs[blob], blob, batch)[: len(part.files)])
        names += map(str, part.files)
        problems += part.problems
    array = np.concatenate(found)
    key = "files" if blob == "images" else "images"
    write_npz(options.output, {blob: array, key: np.array(names, str)})
    if options.json:
        record = {"file": str(options.output), "blob": blob, "shape": array.shape}
        record |= {"images": names, "problems": [p.to_dict() for p in problems]}
        record["notes"] = notes
        return Outcome(json.dumps(record, indent=2), tuple(problems), data=True)
    text = f"{options.output}: {blob} {array.shape}, {key} {(len(names),)}"
    shown = lines(text, *noted(() if options.csv else notes))
    return Outcome(shown, tuple(problems), data=options.csv)
