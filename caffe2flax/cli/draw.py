"""The command draw."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from caffe2flax.cli.arguments import (
    add_command,
    add_force,
    add_json,
    add_selection,
    selection,
)
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import Outcome, lines, noted

USAGE = "draw NET.prototxt -o NET.svg"
NOTES = """\
examples:
  caffe2flax draw googlenet.prototxt -o googlenet.svg
  caffe2flax draw train_val.prototxt --phase TRAIN -o train.dot

Graphviz lays the picture out: its program 'dot' has to be installed, but for .dot.
"""
ENDINGS = (".svg", ".png", ".pdf", ".dot")


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "draw a net", NOTES, run)
    command.add_argument(
        "net", metavar="NET.prototxt", type=Path, help="the architecture"
    )
    command.add_argument(
        "-o",
        dest="output",
        metavar="NET.svg|png|pdf|dot",
        type=_drawing,
        required=True,
        help="where the picture goes; the ending says in which format",
    )
    add_force(command, "a file that exists")
    add_json(command)
    add_selection(command)


def run(options: argparse.Namespace) -> Outcome:
    """Writes the picture; prints its boxes and arrows as JSON, or their numbers."""
    from caffe2flax import draw

    with Bar("drawing"):
        drawn = draw(options.net, **selection(options))
        drawn.write(options.output, options.force)
    if options.json:
        record = {"file": str(options.output), **drawn.picture.as_json()}
        return Outcome(json.dumps(record, indent=2), data=True)
    return Outcome(lines(options.output, drawn.counts, *noted(drawn.left_out)))


def _drawing(text: str) -> Path:
    path = Path(text)
    if path.suffix not in ENDINGS:
        endings = ", ".join(ENDINGS)
        raise argparse.ArgumentTypeError(f"{text!r} ends in none of {endings}")
    return path
