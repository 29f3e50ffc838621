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
    from caffe2flax.files.atomic import write_text
    from caffe2flax.frontend.prototxt import read_text
    from caffe2flax.frontend.source import PipedText
    from caffe2flax.frontend.upgrade.rewrite import upgraded_text

    net = options.net
    if isinstance(net, PipedText):
        text = upgraded_text(str(net), net.file)
    else:
        text = upgraded_text(read_text(net), str(net))
    if options.output is not None:
        return Outcome(lines(write_text(options.output, text, options.force)))
    if sys.stdout.isatty():
        text = "\t".join(map(printable, text.split("\t")))
    return Outcome(text.removesuffix("\n"), data=True)
