"""The command predict."""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe2flax.cli.arguments import (
    add_command,
    add_json,
    add_selection,
    count,
    number,
    numbers_or_path,
    refuse_overwriting,
    selection,
)
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import Outcome, lines, noted
from caffe2flax.errors import ConversionError, Problem, optional

if TYPE_CHECKING:
    from caffe2flax.conversion import Conversion
    from caffe2flax.prediction.batches import Ranked
    from caffe2flax.prediction.images import Recipe

USAGE = "predict NET.prototxt WEIGHTS.caffemodel IMAGE ..."
NOTES = """\
examples:
  caffe2flax predict net.prototxt net.caffemodel cat.jpg --mean 104,117,123
  caffe2flax predict net.prototxt net.caffemodel photos --csv --labels words.txt
  caffe2flax predict net.prototxt net.caffemodel photos --features fc7 -o fc7.npz

An image is decoded to B, G, R, resized as OpenCV does (bilinear) to the input's size,
the mean is subtracted, and the rest multiplied by the scale. With --crop it is resized
to something larger and the middle is taken. What the net's transform_param says is the
default. Files that are no images are named and passed over; the exit status is 1 then.
"""


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
        "--scale", metavar="S", type=number, help="what the rest is multiplied by"
    )
    group.add_argument(
        "--channel-order",
        dest="order",
        choices=("BGR", "RGB"),
        default="BGR",
        help="of the net's input (default: BGR, as everywhere in Caffe)",
    )
    group.add_argument(
        "--crop",
        action="store_true",
        help="take the middle of a larger image: of the mean's size, or 256 x 256",
    )
    group.add_argument(
        "--resize",
        metavar="HEIGHT,WIDTH",
        type=_size,
        help="the larger image's size, to crop from",
    )


def _add_result(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what is shown")
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="the names of the classes, a line each",
    )
    group.add_argument(
        "--top", metavar="K", type=count, default=5, help="classes shown (default: 5)"
    )
    group.add_argument(
        "--scores",
        metavar="BLOB",
        help="the blob that holds the scores (default: the only output)",
    )
    group.add_argument(
        "--batch", metavar="N", type=count, help="images at once (default: up to 16)"
    )
    form = group.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print a line a class as CSV")
    add_json(form)
    group.add_argument(
        "--features", metavar="BLOB", help="write a blob instead of ranking classes"
    )
    group.add_argument(
        "-o",
        dest="output",
        metavar="OUT.npz",
        type=Path,
        help="where --features goes; replaced where it exists",
    )


def run(options: argparse.Namespace) -> Outcome:
    """Prints the classes of every image, or the path of the written features."""
    with optional("an image", "Pillow", "predict"):
        from PIL import Image

    from caffe2flax.prediction import images, preparation
    from caffe2flax.prediction.batches import batch_size, score_blob

    if (options.features is None) != (options.output is None):
        raise ConversionError("give --features BLOB and -o OUT.npz together")
    files = list(images.find(options.images))
    if options.output is not None:
        refuse_overwriting((options.net, options.weights, *files), options.output)
    conversion, recipe, notes = _prepared(options)
    graph = conversion.graph
    job = (conversion, recipe, files)
    batch = batch_size(graph, options.batch, len(files))
    with Bar("predicting") as bar, warnings.catch_warnings():
        # The size of images has a limit of its own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if options.features is not None:
            text, problems = _features(options, job, batch, notes, bar)
        else:
            blob = score_blob(graph, options.scores)
            labels: tuple[str, ...] = ()
            if options.labels is not None:
                classes = graph.shapes[graph.blobs[blob]][1]
                labels = preparation.read_labels(options.labels, classes)
            names = (blob, labels)
            text, problems = _ranking(options, job, names, batch, notes, bar)
    if not (options.csv or options.json):
        text = "\n".join([text, *noted(notes if text else ())])
    data = options.json or options.csv
    as_it_is = options.json or (options.csv and not sys.stdout.isatty())
    return Outcome(text if as_it_is else lines(text), problems, data=data)


def _prepared(
    options: argparse.Namespace,
) -> tuple[Conversion, Recipe, tuple[str, ...]]:
    from caffe2flax import convert
    from caffe2flax.conversion import deploy_stages
    from caffe2flax.prediction import preparation

    stages = deploy_stages(options.net, options.stages, options.phase)
    known = options.mean if isinstance(options.mean, tuple) else ()
    mean = preparation.read_mean(options.mean) if options.mean and not known else None
    blob = options.features or options.scores
    conversion = convert(
        options.net,
        options.weights,
        taps=(blob,) if blob else (),
        **selection(options, mean=known, scale=options.scale, stages=stages),
    )
    recipe, notes = preparation.recipe(
        conversion.graph,
        mean=mean,
        cropped=options.crop,
        resized=options.resize,
        rgb=options.order == "RGB",
    )
    return conversion, recipe, notes


def _ranking(
    options: argparse.Namespace,
    job: tuple[Conversion, Recipe, list[Path]],
    names: tuple[str, tuple[str, ...]],
    batch: int,
    notes: tuple[str, ...],
    bar: Bar,
) -> tuple[str, tuple[Problem, ...]]:
    from caffe2flax.prediction import ranking as rankings
    from caffe2flax.prediction.batches import rank, run_images

    blob, labels = names
    predictions: list[tuple[Path, list[Ranked]]] = []
    problems: list[Problem] = []
    for part in run_images(*job, blob, batch, bar):
        rows = part.rows.reshape(len(part.rows), part.rows.shape[1])
        predictions += zip(part.files, rank(rows, options.top), strict=True)
        problems += part.problems
    if options.json:
        return rankings.as_json(blob, predictions, labels, problems, notes), tuple(
            problems
        )
    show = rankings.as_csv if options.csv else rankings.as_text
    return show(blob, predictions, labels), tuple(problems)


def _features(
    options: argparse.Namespace,
    job: tuple[Conversion, Recipe, list[Path]],
    batch: int,
    notes: tuple[str, ...],
    bar: Bar,
) -> tuple[str, tuple[Problem, ...]]:
    """Writes the blob, with a row for each image, and the images' names."""
    import numpy as np

    from caffe2flax.files.npz import write_npz
    from caffe2flax.prediction.batches import run_images

    blob = options.features
    parts = list(run_images(*job, blob, batch, bar))
    rows = np.concatenate([part.rows for part in parts])
    files = [str(path) for part in parts for path in part.files]
    problems = tuple(problem for part in parts for problem in part.problems)
    names = "files" if blob == "images" else "images"
    write_npz(options.output, {blob: rows, names: np.array(files, str)})
    if options.json:
        record = {"file": str(options.output), "blob": blob, "shape": rows.shape}
        record |= {"images": files, "problems": [p.to_dict() for p in problems]}
        record["notes"] = notes
        return json.dumps(record, indent=2), problems
    text = f"{options.output}: {blob} {rows.shape}, {names} {(len(files),)}"
    return text, problems


def _size(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d{0,4},[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 256,256")
    height, width = map(int, text.split(","))
    return height, width
