"""The command verify."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe2flax.cli.arguments import (
    add_command,
    add_json,
    add_module,
    add_net,
    add_selection,
    selection,
)
from caffe2flax.cli.progress import Bar, uncollected
from caffe2flax.cli.terminal import Outcome, lines
from caffe2flax.errors import ConversionError

if TYPE_CHECKING:
    from caffe2flax.drawing.areas import Located
    from caffe2flax.verification.report import Report

USAGE = "verify NET.prototxt [WEIGHTS.caffemodel ...]"
NOTES = """\
examples:
  caffe2flax verify net.prototxt net.caffemodel --report net.html
  caffe2flax verify net.prototxt net.caffemodel --image cat.jpg --against opencv
  caffe2flax verify net.prototxt net.caffemodel --module out/net.py

Differences are relative to the largest number in a blob. The input is noise, the same
every time, unless --inputs or --image gives another. Exit status 1 when a layer breaks.
--module checks a module that was converted before and edited since: it is run, so it
must be one that you trust.
"""

LARGEST = 1_500_000
"""The largest drawing in a page, in bytes."""


def add_parser(commands: Any) -> None:
    purpose = "compare a net's module with what Caffe computes"
    command = add_command(commands, USAGE, purpose, NOTES, run)
    add_net(command)
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--inputs", metavar="IN.npz", type=Path, help="an array for each input blob"
    )
    source.add_argument(
        "--image", metavar="PHOTO", type=Path, help="a picture for the input"
    )
    command.add_argument(
        "--against",
        choices=("reference", "caffe", "opencv"),
        default="reference",
        help="numpy in float64 (the default), an installed pycaffe, or OpenCV below 5",
    )
    command.add_argument(
        "--tolerance",
        metavar="T",
        type=_tolerance,
        default=1e-4,
        help="the largest difference that passes (default: 1e-4)",
    )
    result = command.add_argument_group("what comes of it")
    result.add_argument(
        "--report",
        metavar="OUT.html",
        type=Path,
        help="write a page that needs no network; replaced where it exists",
    )
    result.add_argument(
        "--emit-test",
        dest="test",
        metavar="test_NAME.py",
        type=_test_file,
        help="write a pytest file and its arrays, to lie beside the module",
    )
    add_json(result)
    module = command.add_argument_group("which module is run")
    module.add_argument(
        "--module",
        metavar="NAME.py",
        type=Path,
        help="this one, edited perhaps, with the .safetensors beside it",
    )
    module.add_argument(
        "--compiled",
        action="store_true",
        help="compare what caffe2flax.compile makes of the module, too",
    )
    add_module(module)
    add_selection(command)


def run(options: argparse.Namespace) -> Outcome:
    """Prints the table, or JSON; writes the page and the test."""
    from caffe2flax import verify
    from caffe2flax.files.atomic import write_text
    from caffe2flax.verification.text import show_report

    with Bar("verifying", "layers") as bar, uncollected():
        report = verify(
            options.net,
            options.weights or None,
            inputs=options.inputs,
            image=options.image,
            against=options.against,
            tolerance=options.tolerance,
            module=options.module,
            compiled=options.compiled,
            progress=bar,
            **selection(options, name=options.name, flat=options.flat),
        )
        if report.evidence is not None:
            evidence = replace(report.evidence, command=options.command_line)
            report = replace(report, evidence=evidence)
        written = []
        if options.report is not None:
            from caffe2flax.frontend.source import text_of
            from caffe2flax.verification.page import page

            source = text_of(options.net) or ""
            text = page(report, _drawing(options), source)
            written.append(write_text(options.report, text, force=True))
        if options.test is not None:
            written += _write_test(options, report)
    if options.json:
        text = json.dumps(report.to_dict(), indent=2)
        return Outcome(text, ok=report.ok, data=True)
    return Outcome(lines(*written, show_report(report)), ok=report.ok)


def _drawing(options: argparse.Namespace) -> Located | None:
    """The net as SVG; None where Graphviz is not installed, or where the drawing is too
    large for a page."""
    from caffe2flax import draw
    from caffe2flax.drawing.areas import located
    from caffe2flax.frontend.stages import deploy_stages

    try:
        chosen = selection(options)
        if options.module is None:
            stages = deploy_stages(options.net, options.stages, options.phase)
            chosen = selection(options, stages=stages)
        drawn = draw(options.net, **chosen)
        svg = drawn.render("svg")
    except ConversionError:
        return None
    return located(drawn.picture, svg) if len(svg) <= LARGEST else None


def _write_test(options: argparse.Namespace, report: Report) -> list[Path]:
    from caffe2flax.files.atomic import write_text
    from caffe2flax.files.npz import write_npz
    from caffe2flax.frontend.sniff import is_binary
    from caffe2flax.verification.parity import parity_test

    if not options.weights and not is_binary(options.net):
        raise ConversionError("--emit-test needs the weights that the module loads")
    source, arrays = parity_test(report, options.test)
    archive = options.test.with_suffix(".npz")
    written = write_text(options.test, source, force=True)
    write_npz(archive, arrays)
    return [written, archive]


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")
    return value


def _test_file(text: str) -> Path:
    path = Path(text)
    if not re.fullmatch(r"test_\w+\.py", path.name):
        raise argparse.ArgumentTypeError(f"{text!r} is not like test_alexnet.py")
    return path
