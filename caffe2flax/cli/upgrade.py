"""The command upgrade."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from caffe2flax.cli.arguments import add_command, add_force, add_limits
from caffe2flax.cli.terminal import Outcome, lines
from caffe2flax.errors import printable

USAGE = "upgrade OLD.prototxt"
NOTES = """\
examples:
  caffe2flax upgrade old.prototxt
  caffe2flax upgrade old.prototxt -o new.prototxt

The result says the same in Caffe's current format; comments stay where they can.
"""


def add_parser(commands: Any) -> None:
    purpose = "bring a prototxt to the current format"
    command = add_command(commands, USAGE, purpose, NOTES, run)
    command.add_argument(
        "net", metavar="OLD.prototxt", type=Path, help="a net of any format"
    )
    command.add_argument(
        "-o",
        dest="output",
        metavar="NEW.prototxt",
        type=Path,
        help="where the text goes (default: standard output)",
    )
    add_force(command, "a file that exists")
    add_limits(command)


def run(options: argparse.Namespace) -> Outcome:
    from caffe2flax import upgrade

    text = upgrade(options.net, options.output, force=options.force)
    if options.output is not None:
        return Outcome(lines(options.output))
    if sys.stdout.isatty():
        text = "\t".join(map(printable, text.split("\t")))
    return Outcome(text.removesuffix("\n"), data=True)
