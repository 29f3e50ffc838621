"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol, Unpack

from caffe2flax import limits
from caffe2flax.cli.terminal import Outcome
from caffe2flax.errors import closest
from caffe2flax.options import NetOptions

Run = Callable[[argparse.Namespace], Outcome]

_SIZE = re.compile(r"[1-9][0-9]{0,9}")
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(,{_NUMBER})*")

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
_WORD = re.compile(r"[\w-]+")
_OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")
_UNRECOGNIZED = "unrecognized arguments: "


class Group(Protocol):
    """A command, or a group of its arguments."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action: ...


class Parser(argparse.ArgumentParser):
    """Says which command, value or option a mistyped one looks like."""

    def error(self, message: str) -> NoReturn:
        if chosen := _CHOICE.search(message):
            message += closest(chosen[1], _WORD.findall(chosen[2]))
        elif message.startswith(_UNRECOGNIZED):
            given = message.removeprefix(_UNRECOGNIZED).split()
            options = _OPTION.findall(self.format_help())
            hints = (closest(word.partition("=")[0], options) for word in given)
            message += next(filter(None, hints), "")
        super().error(message)


class Command(Parser):
    """Takes options between the files: `convert net.prototxt -o out net.caffemodel`."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            found, others = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False
        if others:
            self.error(_UNRECOGNIZED + " ".join(others))
        return found, others


def add_command(
    commands: Any, usage: str, purpose: str, notes: str, run: Run
) -> argparse.ArgumentParser:
    """Adds a command with the function `run`; `usage` begins with its name, and `notes`
    are printed below its options."""
    command: argparse.ArgumentParser = commands.add_parser(
        usage.partition(" ")[0],
        usage=f"caffe2flax {usage} [options]",
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def add_net(command: argparse.ArgumentParser) -> None:
    """Adds the arguments for the files of a net."""
    command.add_argument(
        "net", metavar="NET.prototxt", type=Path, help="the architecture"
    )
    command.add_argument(
        "weights",
        metavar="WEIGHTS.caffemodel",
        type=Path,
        nargs="*",
        help="the weights; of several files the last one counts for a layer",
    )


def add_selection(command: argparse.ArgumentParser) -> None:
    """Adds the options that choose among the nets that the files contain."""
    group = command.add_argument_group("which net is meant")
    group.add_argument(
        "--input-shape",
        dest="input_shapes",
        metavar="BLOB=1,3,227,227",
        type=input_shape,
        action=Mapping,
        default={},
        help="the shape of an input, in Caffe's axis order; may be repeated",
    )
    group.add_argument(
        "--dialect",
        metavar="TYPE=MEANING",
        type=_dialect,
        action=Mapping,
        default={},
        help="what a layer type of several meanings means: Crop=auto; may be repeated",
    )
    group.add_argument(
        "--until",
        metavar="BLOB",
        action="append",
        default=[],
        help="the net up to this blob, and nothing behind; may be repeated",
    )
    group.add_argument(
        "--plugin",
        dest="plugins",
        metavar="LAYERS.py",
        type=Path,
        action="append",
        default=[],
        help="a file of layers of your own, which is run; may be repeated",
    )
    group.add_argument(
        "--phase", choices=("TEST", "TRAIN"), default="TEST", help="default: TEST"
    )
    group.add_argument(
        "--stage",
        dest="stages",
        metavar="S",
        action="append",
        default=[],
        help="a stage to select layers by; may be repeated",
    )
    group.add_argument("--level", metavar="N", type=int, default=0, help="default: 0")
    add_limits(group)


def add_limits(group: Group) -> None:
    group.add_argument(
        "--limit",
        dest="limits",
        metavar="NAME=N",
        type=_limit,
        action=Mapping,
        default={},
        help=f"how much a file may ask for: {', '.join(limits.NAMES)}",
    )


def selection(options: argparse.Namespace, **more: Unpack[NetOptions]) -> NetOptions:
    """The values of the options of `add_selection`, and more, as keywords for the
    package's functions."""
    return {
        "phase": options.phase,
        "level": options.level,
        "stages": tuple(options.stages),
        "input_shapes": options.input_shapes or None,
        "dialect": options.dialect or None,
        "plugins": tuple(options.plugins),
        "until": tuple(options.until),
        **more,
    }


def add_module(group: Group) -> None:
    """Adds the options of `convert` that change the module."""
    group.add_argument("--name", help="the class name that convert was given")
    group.add_argument(
        "--flat", action="store_true", help="the module that convert --flat writes"
    )


def add_preparation(group: Group) -> None:
    """Adds what `predict` and `export` know of images besides the mean."""
    group.add_argument(
        "--scale", metavar="S", type=number, help="what the rest is multiplied by"
    )
    group.add_argument(
        "--channel-order",
        choices=("BGR", "RGB"),
        help="of the net's input (default: BGR, as everywhere in Caffe)",
    )
    group.add_argument(
        "--resize",
        metavar="HEIGHT,WIDTH",
        type=height_width,
        help="the larger image's size, to crop from",
    )


def add_labels(group: Group) -> None:
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        default=(),
        help="the names of the classes, a line each",
    )


def add_json(group: Group) -> None:
    group.add_argument("--json", action="store_true", help="print JSON")


def add_force(group: Group, what: str) -> None:
    group.add_argument("--force", action="store_true", help=f"replace {what}")


class Mapping(argparse.Action):
    """Collects pairs, each key once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        key, value = values
        pairs = getattr(namespace, self.dest)
        if key in pairs:
            raise argparse.ArgumentError(self, f"{key!r} is given twice")
        setattr(namespace, self.dest, pairs | {key: value})


def class_name(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot name a class")
    return text


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    blob, _, sizes = text.rpartition("=")
    if not blob or not all(_SIZE.fullmatch(size) for size in sizes.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not like data=1,3,227,227")
    return blob, tuple(map(int, sizes.split(",")))


def numbers(text: str) -> tuple[float, ...]:
    if not _NUMBERS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 104,117,123")
    return tuple(map(float, text.split(",")))


def numbers_or_path(text: str) -> tuple[float, ...] | Path:
    return numbers(text) if _NUMBERS.fullmatch(text) else Path(text)


def number(text: str) -> float:
    if not re.fullmatch(_NUMBER, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return float(text)


def height_width(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d{0,4},[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 256,256")
    height, width = map(int, text.split(","))
    return height, width


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _dialect(text: str) -> tuple[str, str]:
    type_, _, meaning = text.partition("=")
    if not type_ or not meaning:
        raise argparse.ArgumentTypeError(f"{text!r} is not like Crop=auto")
    return type_, meaning


def _limit(text: str) -> tuple[str, int]:
    name, _, bound = text.partition("=")
    if name not in limits.NAMES or not re.fullmatch(r"[0-9]{1,18}", bound):
        names = ", ".join(limits.NAMES)
        message = f"{text!r} is not like layers=100000; there are {names}"
        raise argparse.ArgumentTypeError(message)
    return name, int(bound)
