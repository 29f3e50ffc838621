"""The command line: the only folder that prints, and that sets an exit status."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from caffe2flax.cli.colours import show
from caffe2flax.cli.parser import parser
from caffe2flax.cli.terminal import (
    Outcome,
    discard_output,
    print_problems,
    problem_of,
)
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.limits import limited

OK = 0
BAD_INPUT = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT
READER_GONE = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0; 1 for bad input, with every problem on stderr; 2 for wrong usage. A closed pipe
    ends the command as SIGPIPE would, Ctrl-C as SIGINT would; at these signals, and at
    SIGTERM, unfinished files are removed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ending():
            status = _status(argv)
            print(end="", flush=True)
    except BrokenPipeError:
        discard_output()
        return READER_GONE
    except OSError as error:
        discard_output()
        print_problems(problem_of(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return _ended("interrupted", INTERRUPTED)
    except _Terminated:
        return _ended("terminated", TERMINATED)
    return status


class _Terminated(BaseException):
    """SIGTERM as an exception, so that unfinished work is cleaned up."""


@contextmanager
def _ending() -> Iterator[None]:
    """Turns SIGTERM into an exception inside."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _ended(how: str, status: int) -> int:
    print(f"caffe2flax: {how}", file=sys.stderr)
    return status


def _status(argv: Sequence[str] | None) -> int:
    try:
        options = parser().parse_args(argv)
        given = sys.argv[1:] if argv is None else argv
        options.command_line = shlex.join(["caffe2flax", *given])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    try:
        with limited(**getattr(options, "limits", {})):
            _read_pipe(options)
            outcome: Outcome = options.run(options)
    except ConversionError as error:
        return _refuse(options, *error.problems, advice=error.advice)
    except OSError as error:
        return _refuse(options, problem_of(error))
    except MemoryError:
        return _refuse(options, Problem("not enough memory"))
    except RuntimeError as error:
        # XLA's MemoryError; its class is not used, as that would import jax.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refuse(options, Problem("not enough memory"))
    if outcome.problems:
        print_problems(*outcome.problems)
    # Outside of `try`: an output that cannot be written is not an error of the command.
    show(outcome.text, sys.stdout, data=outcome.data)
    return OK if outcome.ok and not outcome.problems else BAD_INPUT


def _read_pipe(options: argparse.Namespace) -> None:
    """The net of a pipe as its text, which commands can read more than once."""
    if isinstance(getattr(options, "net", None), Path):
        from caffe2flax.frontend.source import at_hand

        options.net = at_hand(options.net)


def _refuse(
    options: argparse.Namespace, *problems: Problem, advice: Sequence[str] = ()
) -> int:
    """Prints problems on stderr, or as JSON with `--json`."""
    if getattr(options, "json", False):
        record = {"problems": [p.to_dict() for p in problems], "advice": [*advice]}
        print(json.dumps(record, indent=2))
    else:
        print_problems(*problems, advice=advice)
    return BAD_INPUT
