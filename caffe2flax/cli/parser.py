"""The parser of the whole command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from caffe2flax.cli import (
    convert,
    demo,
    draw,
    export,
    inspect,
    predict,
    run,
    train,
    upgrade,
    verify,
)
from caffe2flax.cli.arguments import Command, Parser

NOTES = """\
examples:
  caffe2flax demo
  caffe2flax convert net.prototxt net.caffemodel -o out
  caffe2flax run net.prototxt net.caffemodel --inputs in.npz --outputs out.npz
  caffe2flax verify net.prototxt net.caffemodel
  caffe2flax inspect net.prototxt --where conv4_2
  caffe2flax draw net.prototxt -o net.svg
  caffe2flax predict net.prototxt net.caffemodel photos --mean 104,117,123
  caffe2flax export net.prototxt net.caffemodel --to onnx
  caffe2flax train solver.prototxt
  caffe2flax upgrade old.prototxt -o new.prototxt

exit status: 0; 1 for bad input, with every problem on stderr; 2 for wrong usage;
130 or 143 where SIGINT or SIGTERM ended it, with nothing left behind
"""

COMMANDS = (convert, run, verify, inspect, draw, predict, export, train, upgrade, demo)


def parser() -> argparse.ArgumentParser:
    """The parser; its result has `run`, the function of the given command."""
    top = Parser(
        prog="caffe2flax",
        description="Convert trained Caffe networks to readable Flax NNX modules.",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Command
    )
    for command in COMMANDS:
        command.add_parser(commands)
    return top


class _Version(argparse.Action):
    """Prints the version, which is determined only then, to keep --help fast."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from caffe2flax import __version__

        sys.stdout.write(f"caffe2flax {__version__}\n")
        parser.exit()
