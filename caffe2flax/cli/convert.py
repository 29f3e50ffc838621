"""The command convert."""

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
    number,
    numbers,
    selection,
)
from caffe2flax.cli.progress import Bar, uncollected
from caffe2flax.cli.terminal import Outcome, lines, noted
from caffe2flax.options import NetOptions

USAGE = "convert NET.prototxt [WEIGHTS.caffemodel ...]"
NOTES = """\
examples:
  caffe2flax convert alexnet.prototxt alexnet.caffemodel -o out --name AlexNet
  caffe2flax convert net.prototxt net.caffemodel --verify

Several weight files are laid over one another, the last one on top. Without weights
the class initialises by the prototxt's fillers.
"""


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "write a net as a Flax module", NOTES, run)
    add_net(command)
    command.add_argument(
        "-o",
        dest="directory",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="folder for the .py and the .safetensors (default: the current one)",
    )
    command.add_argument(
        "--name",
        type=class_name,
        help="class name (default: the net's, else the file's)",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="compare the module with the reference; exit status 1 when a layer breaks",
    )
    add_force(command, "files that exist")
    written = command.add_argument_group("what the module holds")
    written.add_argument(
        "--tap",
        dest="taps",
        metavar="BLOB",
        action="append",
        default=[],
        help="also return this blob, or all; may be repeated",
    )
    written.add_argument(
        "--mean",
        metavar="B,G,R",
        type=numbers,
        default=(),
        help="what preprocess subtracts from images",
    )
    written.add_argument(
        "--scale",
        metavar="S",
        type=number,
        help="what preprocess multiplies the rest by",
    )
    written.add_argument(
        "--flat",
        action="store_true",
        help="write repeated blocks out instead of making classes of them",
    )
    written.add_argument(
        "--stub-unsupported",
        action="store_true",
        help="make a method to be filled in of each unsupported layer",
    )
    add_selection(command)


def run(options: argparse.Namespace) -> Outcome:
    from caffe2flax import convert

    weights, taps = options.weights or None, tuple(options.taps)
    module = selection(options, name=options.name, flat=options.flat)
    written: NetOptions = {
        **module,
        "mean": options.mean,
        "scale": options.scale,
        "stub_unsupported": options.stub_unsupported,
    }
    with Bar("converting", "bytes") as bar, uncollected():
        conversion = convert(options.net, weights, taps=taps, **written)
        paths = conversion.write(options.directory, force=options.force, progress=bar)
    counts = (
        f"{conversion.name}: {conversion.layer_count:,} layers, "
        f"{conversion.parameter_count:,} parameters"
    )
    report = lines(*paths, counts, *noted(conversion.notes))
    if not options.verify:
        return Outcome(report)
    from caffe2flax import verify
    from caffe2flax.verification.text import closing

    with Bar("verifying", "layers") as bar, uncollected():
        verified = verify(options.net, weights, taps=taps, progress=bar, **module)
    return Outcome(lines(report, *closing(verified)), ok=verified.ok)
