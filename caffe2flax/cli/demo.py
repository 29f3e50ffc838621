"""The command demo."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe2flax.cli.arguments import add_command
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import Outcome, can_print, lines

if TYPE_CHECKING:
    from caffe2flax.demo import Demo

USAGE = "demo"
NOTES = """\
examples:
  caffe2flax demo
  caffe2flax demo -o digits

Files of an earlier demo are replaced, any other file is left alone.
"""


def add_parser(commands: Any) -> None:
    purpose = "convert and run a small trained net"
    command = add_command(commands, USAGE, purpose, NOTES, run)
    command.add_argument(
        "-o",
        dest="directory",
        metavar="DIR",
        type=Path,
        default=Path("caffe2flax-demo"),
        help="folder for the files (default: caffe2flax-demo)",
    )


def run(options: argparse.Namespace) -> Outcome:
    from caffe2flax.demo import demo

    with Bar("converting and running a net"):
        result = demo(options.directory)
    total = len(result.labels)
    return Outcome(
        lines(
            *result.paths,
            "",
            result.drawing(solid=can_print("▀▄█")),
            "",
            f"{result.correct} of {total} test images right, "
            f"{result.correct / total:.2%}",
            "largest difference from the probabilities that Caffe recorded: "
            f"{result.difference:.1e}",
            _next_steps(result, options.directory),
        )
    )


def _next_steps(result: Demo, directory: Path) -> str:
    folder = shlex.quote(str(directory))
    net, weights, images = (shlex.quote(str(path)) for path in result.sources)
    code = f"from {result.module} import {result.name} as Net"
    return f"""
try next
  cat {shlex.quote(str(result.paths[0]))}
  (cd {folder} && python -c "{code}; print(Net.from_pretrained())")
  caffe2flax run {net} {weights} --inputs {images} --outputs prob.npz
  caffe2flax convert {net} {weights} --tap all -o tapped"""
