"""The command draw: what it takes, and what it has to say."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffe2flax.cli.progress import Bar

EXAMPLE = """\
example:
  caffe2flax draw googlenet.prototxt -o googlenet.svg

Graphviz lays the picture out: its program 'dot' has to be installed, but for .dot.
"""
ENDINGS = (".svg", ".png", ".pdf", ".dot")


def add_draw(command: argparse.ArgumentParser) -> None:
    """The arguments of draw besides the net's."""
    command.add_argument(
        "-o",
        dest="output",
        metavar="NET.svg|png|pdf|dot",
        type=_drawing,
        required=True,
        help="where the picture goes; the ending says in which format",
    )
    command.add_argument(
        "--json", action="store_true", help="print boxes and arrows as JSON"
    )
    command.add_argument(
        "--force", action="store_true", help="replace a file that exists"
    )


def run_draw(options: argparse.Namespace, selection: Mapping[str, Any]) -> str:
    """What was drawn; writes the picture."""
    from caffe2flax.conversion import read_graph
    from caffe2flax.drawing.dot import render
    from caffe2flax.drawing.picture import DRAWN, picture
    from caffe2flax.files.atomic import write_bytes

    with Bar("drawing"):
        graph = read_graph(options.net, passes=DRAWN, **selection)
        drawn = picture(graph)
        content = render(drawn, options.output.suffix.removeprefix("."))
        write_bytes(options.output, content, options.force)
    if options.json:
        return json.dumps({"file": str(options.output), **drawn.as_json()}, indent=2)
    layers = sum(len(box.parts) for box in drawn.boxes)
    blocks = {box.block for box in drawn.boxes if box.block}
    counts = f"{drawn.name}: {layers:,} layers, {len(blocks):,} repeated blocks"
    left = (
        f"note: left out {d.type} {d.name!r}: {d.reason}" for d in graph.remarks.dropped
    )
    return "\n".join([str(options.output), counts, *left])


def _drawing(text: str) -> Path:
    path = Path(text)
    if path.suffix not in ENDINGS:
        endings = ", ".join(ENDINGS)
        raise argparse.ArgumentTypeError(f"{text!r} ends in none of {endings}")
    return path
