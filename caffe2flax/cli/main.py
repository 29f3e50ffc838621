"""The command line: the only module that prints, and that sets an exit status."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe2flax.cli import draw as pictures
from caffe2flax.cli import predict as predictions
from caffe2flax.cli import verify as proofs
from caffe2flax.cli.arguments import parser
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import show
from caffe2flax.cli.verify import Outcome
from caffe2flax.errors import ConversionError, Problem, Span, printable
from caffe2flax.limits import limited

if TYPE_CHECKING:
    from caffe2flax.demo import Demo

OK = 0
BAD_INPUT = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT
READER_GONE = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0; 1 for bad input, with every problem on stderr; 2 for wrong usage. A reader that
    closes the pipe ends the command as SIGPIPE would, Ctrl-C as SIGINT would; at either
    signal to end, SIGTERM as well, what is half done is removed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ending():
            status = _status(argv)
            print(end="", flush=True)
    except BrokenPipeError:
        _discard_output()
        return READER_GONE
    except OSError as error:
        _discard_output()
        return _failed(_problem(error))
    except KeyboardInterrupt:
        return _ended("interrupted", INTERRUPTED)
    except _Terminated:
        return _ended("terminated", TERMINATED)
    return status


class _Terminated(BaseException):
    """SIGTERM, as an exception that cleans up on its way."""


@contextmanager
def _ending() -> Iterator[None]:
    """Makes an exception of SIGTERM inside."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal comes here
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
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    commands: Mapping[str, Callable[[argparse.Namespace], str | Outcome]] = {
        "convert": _convert,
        "run": _run,
        "verify": _verify,
        "inspect": _inspect,
        "draw": _draw,
        "predict": _predict,
        "upgrade": _upgrade,
        "demo": _demo,
    }
    try:
        with limited(**getattr(options, "limits", {})):
            outcome = commands[options.command](options)
    except ConversionError as error:
        return _refused(options, *error.problems)
    except OSError as error:
        return _refused(options, _problem(error))
    except MemoryError:
        return _refused(options, Problem("not enough memory"))
    except RuntimeError as error:
        # XLA's MemoryError; its class is not named, which would import jax.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(options, Problem("not enough memory"))
    # Outside: that the output cannot be written is no problem of the command.
    report, well = outcome if isinstance(outcome, tuple) else (outcome, True)
    data = getattr(options, "json", False) or getattr(options, "csv", False)
    show(report, sys.stdout, data=data or options.command == "upgrade")
    return OK if well else BAD_INPUT


def _convert(options: argparse.Namespace) -> str | Outcome:
    from caffe2flax import convert

    with Bar("converting") as bar, proofs.uncollected():
        conversion = convert(
            options.net,
            options.weights or None,
            name=options.name,
            taps=tuple(options.taps),
            flat=options.flat,
            stub_unsupported=options.stub_unsupported,
            mean=options.mean,
            scale=options.scale,
            **_selection(options),
        )
        paths = conversion.write(options.directory, force=options.force, progress=bar)
    counts = (
        f"{conversion.name}: {conversion.layer_count:,} layers, "
        f"{conversion.parameter_count:,} parameters"
    )
    notes = (f"note: {note}" for note in conversion.notes)
    report = _lines(*paths, counts, *notes)
    if not options.verify:
        return report
    compared, well = proofs.verified(options, _selection(options))
    return _lines(report, compared), well


def _verify(options: argparse.Namespace) -> Outcome:
    report, well = proofs.run_verify(options, _selection(options))
    return _lines(report), well


def _inspect(options: argparse.Namespace) -> Outcome:
    text, well = proofs.run_inspect(options, _selection(options))
    return _lines(text), well


def _run(options: argparse.Namespace) -> str:
    from caffe2flax import run
    from caffe2flax.files.npz import read_npz, write_npz

    for path in (options.net, *options.weights, options.inputs):
        if _is_same_file(path, options.outputs):
            message = "the results would replace this input"
            raise ConversionError(Problem(message, Span(str(path))))
    with Bar("running"):
        results = run(
            options.net,
            options.weights or None,
            read_npz(options.inputs),
            blobs=options.blobs,
            **_selection(options),
        )
        write_npz(options.outputs, results)
    shapes = (f"{name} {array.shape}" for name, array in results.items())
    return _lines(*(f"{options.outputs}: {shape}" for shape in shapes))


def _draw(options: argparse.Namespace) -> str:
    text = pictures.run_draw(options, _selection(options))
    return text if options.json else _lines(text)


def _predict(options: argparse.Namespace) -> Outcome:
    text, problems = predictions.run_predict(options, _selection(options))
    if problems:
        _failed(*problems)
    plain = options.csv and not sys.stdout.isatty()
    return text if plain or options.json else _lines(text), not problems


def _upgrade(options: argparse.Namespace) -> str:
    from caffe2flax.files.atomic import write_text
    from caffe2flax.frontend.prototxt import read_text
    from caffe2flax.frontend.upgrade.rewrite import upgraded_text

    text = upgraded_text(read_text(options.net), str(options.net))
    if options.output is not None:
        return _lines(write_text(options.output, text, options.force))
    if sys.stdout.isatty():
        text = "\t".join(map(printable, text.split("\t")))
    return text.removesuffix("\n")


def _demo(options: argparse.Namespace) -> str:
    from caffe2flax.demo import demo

    with Bar("converting and running a net"):
        result = demo(options.directory)
    total = len(result.labels)
    return _lines(
        *result.paths,
        "",
        result.drawing(solid=_can_print("▀▄█")),
        "",
        f"{result.correct} of {total} test images right, {result.correct / total:.2%}",
        "largest difference from the probabilities that Caffe recorded: "
        f"{result.difference:.1e}",
        _next_steps(result, options.directory),
    )


def _lines(*parts: object) -> str:
    """Without control characters: names from a file cannot steer a terminal."""
    return printable("\n".join(map(str, parts)))


def _selection(options: argparse.Namespace) -> dict[str, Any]:
    """What both `convert` and `run` take to tell which net is meant."""
    return {
        "phase": options.phase,
        "level": options.level,
        "stages": tuple(options.stages),
        "input_shapes": options.input_shapes or None,
        "dialect": options.dialect or None,
        "plugins": tuple(options.plugins),
    }


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


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


def _problem(error: OSError) -> Problem:
    reason = error.strerror or str(error) or type(error).__name__
    span = None if error.filename is None else Span(os.fsdecode(error.filename))
    return Problem(reason, span)


def _refused(options: argparse.Namespace, *problems: Problem) -> int:
    """On stderr, or as JSON where that is asked for."""
    if not getattr(options, "json", False):
        return _failed(*problems)
    print(json.dumps({"problems": [p.to_dict() for p in problems]}, indent=2))
    return BAD_INPUT


def _failed(*problems: Problem) -> int:
    ordered = sorted(problems, key=lambda p: (p.file or "", p.line or 0, p.column or 0))
    show("\n".join(map(str, ordered)), sys.stderr)
    return BAD_INPUT


def _discard_output() -> None:
    """Point stdout at nothing, so that the interpreter's own last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
