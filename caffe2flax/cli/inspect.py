"""The command inspect."""

from __future__ import annotations

import argparse
import json
from typing import Any

from caffe2flax.cli.arguments import (
    add_command,
    add_json,
    add_module,
    add_net,
    add_selection,
    selection,
)
from caffe2flax.cli.progress import Bar
from caffe2flax.cli.terminal import Outcome, lines

USAGE = "inspect NET.prototxt|NET.caffemodel [WEIGHTS.caffemodel ...]"
NOTES = """\
examples:
  caffe2flax inspect net.prototxt
  caffe2flax inspect net.caffemodel
  caffe2flax inspect net.prototxt --where conv4_2

--where takes a layer or a blob, a line of the generated module, or a line of the
prototxt as net.prototxt:57.
"""


def add_parser(commands: Any) -> None:
    command = add_command(commands, USAGE, "show what a net is made of", NOTES, run)
    add_net(command)
    command.add_argument(
        "--where",
        metavar="LAYER|LINE|NET.prototxt:LINE",
        help="what came from a layer, or what a line came from",
    )
    add_json(command)
    add_module(command.add_argument_group("the lines of which module"))
    add_selection(command)


def run(options: argparse.Namespace) -> Outcome:
    """The facts about a net or a weights file, or the lines of a layer, as text or
    JSON."""
    from caffe2flax import inspect, where
    from caffe2flax.inspection.net import Inspection
    from caffe2flax.inspection.text import (
        show_inspection,
        show_locations,
        show_weights,
    )

    weights = options.weights or None
    with Bar("inspecting"):
        if options.where is not None:
            places = where(
                options.net,
                options.where,
                weights,
                **selection(options, name=options.name, flat=options.flat),
            )
            if options.json:
                text = json.dumps([place.to_dict() for place in places], indent=2)
                return Outcome(text, data=True)
            return Outcome(lines(show_locations(places)))
        result = inspect(options.net, weights, **selection(options))
    if options.json:
        return Outcome(json.dumps(result.to_dict(), indent=2), data=True)
    if isinstance(result, Inspection):
        return Outcome(lines(show_inspection(result)))
    return Outcome(lines(show_weights(result)))
