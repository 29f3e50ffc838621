"""The command export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from caffe2flax.cli.arguments import (
    add_command,
    add_force,
    add_net,
    add_selection,
    class_name,
    count,
    selection,
)
from caffe2flax.cli.progress import Bar, uncollected
from caffe2flax.cli.terminal import Outcome, lines, noted

USAGE = "export NET.prototxt [WEIGHTS.caffemodel ...] --to FORM"
NOTES = """\
examples:
  caffe2flax export net.prototxt net.caffemodel --to onnx -o net.onnx --verify
  caffe2flax export net.prototxt net.caffemodel --to onnx --batch 1 -o net1.onnx

onnx is a model of opset 17 with Caffe's blob names and axis order (N, C, H, W). Layers
that it cannot say exactly are all named, and nothing is written. Without weights the
fillers give them.
"""


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "write a net for other programs", NOTES, run)
    add_net(command)
    command.add_argument("--to", choices=("onnx",), required=True, help="the form")
    command.add_argument(
        "-o",
        dest="path",
        metavar="PATH",
        type=Path,
        help="the file (default: the net's name with .onnx, here)",
    )
    command.add_argument("--name", type=class_name, help="name of the model")
    command.add_argument(
        "--batch",
        metavar="N|dynamic",
        type=_batch,
        help="how many images at once (default: any number, where the layers allow it)",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="run what was written and compare every layer with the reference; exit "
        "status 1 when a layer breaks",
    )
    add_force(command, "files that exist")
    add_selection(command)


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
            verify=options.verify,
            force=options.force,
            **selection(options, name=options.name),
        )
    found = closing(written.report) if written.report else ()
    report = lines(*written.paths, *noted(written.notes), *found)
    return Outcome(report, ok=written.ok)


def _batch(text: str) -> int | str:
    return text if text == "dynamic" else count(text)
