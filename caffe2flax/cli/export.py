"""The command export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from caffe2flax.cli.arguments import (
    add_command,
    add_force,
    add_labels,
    add_net,
    add_preparation,
    add_selection,
    class_name,
    count,
    numbers,
    selection,
)
from caffe2flax.cli.progress import Bar, uncollected
from caffe2flax.cli.terminal import Outcome, lines, noted

USAGE = "export NET.prototxt [WEIGHTS.caffemodel ...] --to FORM"
NOTES = """\
examples:
  caffe2flax export net.prototxt net.caffemodel --to onnx -o net.onnx --verify
  caffe2flax export net.prototxt net.caffemodel --to stablehlo -o program --bundle
  caffe2flax export net.prototxt net.caffemodel --to hub -o folder --mean 104,117,123

onnx is a model of opset 17 with Caffe's blob names and axis order (N, C, H, W). Layers
that it cannot say exactly are all named, and nothing is written. stablehlo is a folder
with the module as a program for CPU, GPU and TPU, which runs with JAX but without Flax.
hub is a folder to publish: module, weights, config.json with what prepares images, the
same as code, README.md with the comparison of all layers, and a test. Without weights
the fillers give them, but for hub.
"""


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "write a net for other programs", NOTES, run)
    add_net(command)
    command.add_argument(
        "--to", choices=("onnx", "stablehlo", "hub"), required=True, help="the form"
    )
    command.add_argument(
        "-o",
        dest="path",
        metavar="PATH",
        type=Path,
        help="the file for onnx, else the folder (default: the net's name)",
    )
    command.add_argument("--name", type=class_name, help="name of the model")
    command.add_argument(
        "--batch",
        metavar="N|dynamic",
        type=_batch,
        help="how many images at once (default: any number, where the layers allow it)",
    )
    command.add_argument(
        "--bundle",
        action="store_true",
        help="put the weights into the program, not beside it",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="run what was written and compare it with the reference; exit status 1 "
        "when a layer breaks",
    )
    add_force(command, "files that exist")
    _add_images(command)
    add_selection(command)


def _add_images(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how images are prepared, for hub")
    group.add_argument(
        "--mean",
        metavar="B,G,R",
        type=numbers,
        default=(),
        help="what is subtracted, in the order of the net's channels",
    )
    add_preparation(group)
    add_labels(group)


def run(options: argparse.Namespace) -> Outcome:
    """Writes the files; prints their paths and notes, and what --verify found."""
    from caffe2flax import export
    from caffe2flax.verification.text import closing

    with Bar("exporting"), uncollected():
        written = export(
            options.net,
            options.weights or None,
            to=options.to,
            path=options.path,
            batch=options.batch,
            bundle=options.bundle,
            verify=options.verify,
            force=options.force,
            labels=options.labels,
            resize=options.resize,
            channel_order=options.channel_order,
            **selection(
                options, name=options.name, mean=options.mean, scale=options.scale
            ),
        )
    found = closing(written.report) if written.report else ()
    report = lines(*written.paths, *noted(written.notes), *found)
    return Outcome(report, ok=written.ok)


def _batch(text: str) -> int | str:
    return text if text == "dynamic" else count(text)
