"""The command train."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from caffe2flax.cli.arguments import (
    Mapping,
    add_command,
    add_force,
    add_limits,
    class_name,
    count,
)
from caffe2flax.cli.progress import Bar, uncollected
from caffe2flax.cli.terminal import Outcome, lines, noted

USAGE = "train SOLVER.prototxt"
NOTES = """\
examples:
  caffe2flax train solver.prototxt
  caffe2flax train solver.prototxt --weights net.caffemodel --freeze 'conv*'
  caffe2flax train solver.prototxt --data flowers_lmdb --set num_classes=20
  caffe2flax train solver.prototxt --snapshot net_iter_5000.solverstate
  caffe2flax train solver.prototxt --resume --max-iter 100

The module and a script, NAME_train.py, are written; then the script is run. It needs
only the files beside it and is yours to edit: `python NAME_train.py` goes on without
this command. Ctrl-C takes a snapshot and ends, SIGHUP takes one and goes on.
"""


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "train as a solver says", NOTES, run)
    command.add_argument(
        "solver", metavar="SOLVER.prototxt", type=Path, help="how Caffe trained"
    )
    command.add_argument(
        "-o",
        dest="directory",
        metavar="DIR",
        type=Path,
        help="folder for all that is written (default: that of snapshot_prefix)",
    )
    command.add_argument(
        "--script-only", action="store_true", help="write the files, run nothing"
    )
    add_force(command, "the module and the script where they were edited")
    net = command.add_argument_group("the net")
    net.add_argument(
        "--net", type=Path, help="the net, where it is not where the solver says"
    )
    net.add_argument("--name", type=class_name, help="class name (default: the net's)")
    net.add_argument(
        "--weights",
        metavar="NET.caffemodel",
        type=Path,
        action="append",
        default=[],
        help="start from these weights; may be repeated",
    )
    net.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        type=_setting,
        action=Mapping,
        default={},
        help="an argument of the class, such as num_classes=20; may be repeated",
    )
    net.add_argument(
        "--freeze",
        metavar="LAYERS",
        action="append",
        default=[],
        help="layers that stay as they are, such as 'conv*'; may be repeated",
    )
    add_limits(net)
    data = command.add_argument_group("the data")
    data.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        help="the data to train with, in place of the net's: a database, a list, or "
        "an .npz of arrays by blob",
    )
    data.add_argument(
        "--test-data", metavar="PATH", type=Path, help="the same for the test nets"
    )
    data.add_argument(
        "--shuffle", action="store_true", help="not in the order of the data"
    )
    add_running(command)


def add_running(command: argparse.ArgumentParser) -> None:
    """The options that the script takes as well."""
    group = command.add_argument_group("the run, as the script takes it, too")
    start = group.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint"
    )
    start.add_argument(
        "--snapshot",
        metavar="X.solverstate",
        type=Path,
        help="go on from a snapshot, Caffe's or ours",
    )
    group.add_argument(
        "--max-iter",
        metavar="N",
        type=count,
        help="stop after N updates in all; the rates stay those of the solver",
    )
    group.add_argument("--devices", metavar="N", type=count, help="use N devices")
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of several processes, the first"
    )
    group.add_argument("--processes", metavar="N", type=count, help="how many")
    group.add_argument("--process", metavar="K", type=int, help="this one, from 0")


def run(options: argparse.Namespace) -> Outcome:
    """Writes the files and runs the script in this process."""
    from caffe2flax.training.prepare import prepare

    with Bar("converting"), uncollected():
        prepared = prepare(
            options.solver,
            net=options.net,
            name=options.name,
            weights=options.weights or None,
            settings=options.settings,
            freeze=options.freeze,
            data=options.data,
            test_data=options.test_data,
            shuffle=options.shuffle,
            directory=options.directory,
        )
        paths = prepared.write(force=options.force)
    text = lines(*paths, *noted(prepared.notes))
    if options.script_only:
        return Outcome(text)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    _execute(prepared.script, _arguments(options))
    return Outcome("")


def _arguments(options: argparse.Namespace) -> list[str]:
    """What the script is given."""
    given = ["--resume"] if options.resume else []
    if options.snapshot is not None:
        given += ["--snapshot", str(options.snapshot)]
    for name in ("max_iter", "devices", "coordinator", "processes", "process"):
        value = getattr(options, name)
        if value is not None:
            given += [f"--{name.replace('_', '-')}", str(value)]
    return given


def _execute(script: Path, arguments: list[str]) -> None:
    """As `python script` does, in this process: a signal reaches it, and if it is
    killed, nothing goes on."""
    path, argv = sys.path[:], sys.argv
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.path[:], sys.argv = path, argv


def _setting(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*", key) or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not like num_classes=20")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
