"""The commands verify and inspect: what they take, and what they have to say."""

from __future__ import annotations

import argparse
import gc
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caffe2flax.cli.progress import Bar
from caffe2flax.errors import ConversionError

VERIFY_EXAMPLE = """\
example:
  caffe2flax verify net.prototxt net.caffemodel --report net.html

Differences are relative to the largest number in a blob. The input is noise, the same
every time, unless --inputs or --image gives another. Exit status 1 when a layer breaks.
--module checks a module that was converted before and edited since: it is run, so it
must be one that you trust.
"""
INSPECT_EXAMPLE = """\
examples:
  caffe2flax inspect net.prototxt
  caffe2flax inspect net.caffemodel
  caffe2flax inspect net.prototxt --where conv4_2

--where takes a layer or a blob, a line of the generated module, or a line of the
prototxt as net.prototxt:57.
"""

LARGEST = 1_500_000
"""Bytes of a drawing that a page holds."""

Outcome = tuple[str, bool]
"""What to print, and whether all is well."""


def add_verify(command: argparse.ArgumentParser) -> None:
    """The arguments of verify besides the net's."""
    _oracle(command)
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--inputs", metavar="IN.npz", type=Path, help="an array for each input blob"
    )
    source.add_argument(
        "--image", metavar="PHOTO", type=Path, help="a picture for the input"
    )
    command.add_argument(
        "--report",
        metavar="OUT.html",
        type=Path,
        help="write a page that needs no network; replaced where it exists",
    )
    command.add_argument(
        "--emit-test",
        dest="test",
        metavar="test_NAME.py",
        type=_test_file,
        help="write a pytest file and its arrays, to lie beside the module",
    )
    command.add_argument(
        "--module",
        metavar="NAME.py",
        type=Path,
        help="run this module, edited perhaps, with the .safetensors beside it",
    )
    command.add_argument(
        "--compiled",
        action="store_true",
        help="compare what caffe2flax.compile makes of the module, too",
    )
    _module(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def add_convert(command: argparse.ArgumentParser) -> None:
    """What convert takes to verify right away."""
    command.add_argument(
        "--verify",
        action="store_true",
        help="hold the module against the reference; exit status 1 when it breaks",
    )


def add_inspect(command: argparse.ArgumentParser) -> None:
    """The arguments of inspect besides the net's."""
    command.add_argument(
        "--where",
        metavar="LAYER|LINE|NET.prototxt:LINE",
        help="what came from a layer, or what a line came from",
    )
    _module(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _module(command: argparse.ArgumentParser) -> None:
    """Which module is meant, where `convert` was told."""
    command.add_argument(
        "--flat", action="store_true", help="the module that convert --flat writes"
    )
    command.add_argument("--name", help="the class name that convert was given")


def _oracle(command: argparse.ArgumentParser) -> None:
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


@contextmanager
def uncollected() -> Iterator[None]:
    """Without a search for cycles: importing, tracing and compiling leave few, and
    looking for them takes a sixth of a short command's time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # what there is would be looked through once more, for nothing
            gc.enable()


def run_verify(options: argparse.Namespace, selection: Mapping[str, Any]) -> Outcome:
    """The table, or JSON, of a verification; writes the page and the test."""
    from caffe2flax import verify
    from caffe2flax.files.atomic import write_text
    from caffe2flax.verification.text import show_report

    with Bar("verifying"), uncollected():
        report = verify(
            options.net,
            options.weights or None,
            inputs=options.inputs,
            image=options.image,
            against=options.against,
            tolerance=options.tolerance,
            module=options.module,
            compiled=options.compiled,
            name=options.name,
            flat=options.flat,
            **selection,
        )
        written = []
        if options.report is not None:
            from caffe2flax.verification.page import page

            text = page(report, _drawing(options, selection))
            written.append(write_text(options.report, text, force=True))
        if options.test is not None:
            written += _write_test(options, report)
    if options.json:
        return json.dumps(report.to_dict(), indent=2), report.ok
    return "\n".join([*map(str, written), show_report(report)]), report.ok


def _drawing(options: argparse.Namespace, selection: Mapping[str, Any]) -> bytes:
    """The net as SVG; nothing where Graphviz is not installed, or draws it too large
    for a page."""
    from caffe2flax.conversion import read_graph
    from caffe2flax.drawing.dot import render
    from caffe2flax.drawing.picture import DRAWN, picture

    try:
        graph = read_graph(options.net, passes=DRAWN, **selection)
        drawn = render(picture(graph), "svg")
    except ConversionError:
        return b""
    return drawn if len(drawn) <= LARGEST else b""


def _write_test(options: argparse.Namespace, report: Any) -> list[Path]:
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


def verified(options: argparse.Namespace, selection: Mapping[str, Any]) -> Outcome:
    """The closing lines of a verification right after `convert`."""
    from caffe2flax import verify
    from caffe2flax.verification.text import closing

    with Bar("verifying"), uncollected():
        report = verify(
            options.net,
            options.weights or None,
            name=options.name,
            taps=tuple(options.taps),
            flat=options.flat,
            **selection,
        )
    return "\n".join(closing(report)), report.ok


def run_inspect(options: argparse.Namespace, selection: Mapping[str, Any]) -> Outcome:
    """What a net or a weights file holds, or where a layer is, as text or JSON."""
    from caffe2flax import inspect, where
    from caffe2flax.inspection.net import Inspection
    from caffe2flax.inspection.text import (
        show_inspection,
        show_weights,
        show_whereabouts,
    )

    weights = options.weights or None
    with Bar("inspecting"):
        if options.where is not None:
            places = where(
                options.net,
                options.where,
                weights,
                name=options.name,
                flat=options.flat,
                **selection,
            )
            if options.json:
                return json.dumps([place.to_dict() for place in places], indent=2), True
            return show_whereabouts(places), True
        found = inspect(options.net, weights, **selection)
    if options.json:
        return json.dumps(found.to_dict(), indent=2), True
    if isinstance(found, Inspection):
        return show_inspection(found), True
    return show_weights(found), True


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
