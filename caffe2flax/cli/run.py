"""The command run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from caffe2flax.cli.arguments import (
    add_command,
    add_net,
    add_selection,
    selection,
)
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import Outcome, lines

USAGE = "run NET.prototxt [WEIGHTS.caffemodel ...] --inputs IN --outputs OUT"
NOTES = """\
examples:
  caffe2flax run alexnet.prototxt alexnet.caffemodel --inputs in.npz --outputs out.npz
  caffe2flax run net.prototxt net.caffemodel --inputs x.npz --outputs y.npz --blobs fc7

Arrays lie under Caffe's blob names, in Caffe's axis order (N, C, H, W).
"""


def add_parser(commands: Any) -> None:
    command = add_command(
        commands, USAGE, "run a net on arrays, as Caffe would", NOTES, run
    )
    add_net(command)
    command.add_argument(
        "--inputs",
        metavar="IN.npz",
        type=Path,
        required=True,
        help="an array for each input blob",
    )
    command.add_argument(
        "--outputs",
        metavar="OUT.npz",
        type=Path,
        required=True,
        help="where the results go; replaced where it exists",
    )
    command.add_argument(
        "--blobs",
        metavar="all|outputs|NAME,...",
        type=_blobs,
        default="outputs",
        help="which blobs to write (default: the net's outputs)",
    )
    add_selection(command)


def run(options: argparse.Namespace) -> Outcome:
    from caffe2flax import run
    from caffe2flax.files.atomic import identities, refuse_overwriting
    from caffe2flax.files.npz import read_npz, write_npz

    inputs = identities((options.net, *options.weights, options.inputs))
    refuse_overwriting(inputs, options.outputs)
    with Bar("running"):
        results = run(
            options.net,
            options.weights or None,
            read_npz(options.inputs),
            blobs=options.blobs,
            **selection(options),
        )
        write_npz(options.outputs, results)
    shapes = (f"{name} {array.shape}" for name, array in results.items())
    return Outcome(lines(*(f"{options.outputs}: {shape}" for shape in shapes)))


def _blobs(text: str) -> str | tuple[str, ...]:
    if text in ("all", "outputs"):
        return text
    names = tuple(text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty name")
    return names
