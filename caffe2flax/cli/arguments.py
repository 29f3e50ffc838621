"""The grammar of the command line."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caffe2flax import limits
from caffe2flax.cli import draw as pictures
from caffe2flax.cli import predict as predictions
from caffe2flax.cli import verify as proofs

CONVERT_EXAMPLE = """\
example:
  caffe2flax convert alexnet.prototxt alexnet.caffemodel -o out --name AlexNet

Several weight files are laid over one another, the last one on top. Without weights
the class initialises by the prototxt's fillers.
"""
RUN_EXAMPLE = """\
example:
  caffe2flax run alexnet.prototxt alexnet.caffemodel --inputs in.npz --outputs out.npz

Arrays stand under Caffe's blob names, in Caffe's axis order (N, C, H, W).
"""
UPGRADE_EXAMPLE = """\
example:
  caffe2flax upgrade old.prototxt -o new.prototxt

The result says the same in Caffe's current format; comments stay where they can.
"""
DEMO_EXAMPLE = """\
example:
  caffe2flax demo -o digits

Files of an earlier demo are replaced, any other file is left alone.
"""
EXAMPLES = """\
examples:
  caffe2flax demo
  caffe2flax convert net.prototxt net.caffemodel -o out
  caffe2flax run net.prototxt net.caffemodel --inputs in.npz --outputs out.npz
  caffe2flax verify net.prototxt net.caffemodel
  caffe2flax inspect net.prototxt --where conv4_2
  caffe2flax draw net.prototxt -o net.svg
  caffe2flax predict net.prototxt net.caffemodel photos --mean 104,117,123
  caffe2flax upgrade old.prototxt -o new.prototxt

exit status: 0; 1 for bad input, with every problem on stderr; 2 for wrong usage;
130 or 143 where SIGINT or SIGTERM ended it, with nothing left behind
"""
_SIZE = re.compile(r"[1-9][0-9]{0,9}")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `command` names the one that was given."""
    top = argparse.ArgumentParser(
        prog="caffe2flax",
        description="Convert trained Caffe networks to readable Flax NNX modules.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Command
    )
    _convert(
        _command(commands, "convert", "write a net as a Flax module", CONVERT_EXAMPLE)
    )
    _run(_command(commands, "run", "run a net on arrays, as Caffe would", RUN_EXAMPLE))
    verify = _command(
        commands, "verify", "hold a net's module against Caffe", proofs.VERIFY_EXAMPLE
    )
    _net(verify)
    proofs.add_verify(verify)
    inspect = _command(
        commands, "inspect", "show what a net is made of", proofs.INSPECT_EXAMPLE
    )
    _net(inspect)
    proofs.add_inspect(inspect)
    draw = _command(commands, "draw", "draw a net", pictures.EXAMPLE)
    draw.add_argument("net", metavar="NET.prototxt", type=Path)
    _state(draw)
    pictures.add_draw(draw)
    predict = _command(
        commands, "predict", "run a net on image files", predictions.EXAMPLE
    )
    predict.add_argument("net", metavar="NET.prototxt", type=Path)
    predict.add_argument("weights", metavar="WEIGHTS.caffemodel", type=Path)
    _state(predict)
    predictions.add_predict(predict)
    _upgrade(
        _command(
            commands,
            "upgrade",
            "bring a prototxt to the current format",
            UPGRADE_EXAMPLE,
        )
    )
    _demo(
        _command(commands, "demo", "convert and run a small trained net", DEMO_EXAMPLE)
    )
    return top


def _command(commands: Any, name: str, purpose: str, example: str) -> Any:
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _convert(command: argparse.ArgumentParser) -> None:
    _net(command)
    command.add_argument(
        "-o",
        dest="directory",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="folder for the .py and the .safetensors (default: the current one)",
    )
    command.add_argument(
        "--name",
        type=_class_name,
        help="class name (default: the net's, else the file's)",
    )
    command.add_argument(
        "--tap",
        dest="taps",
        metavar="BLOB",
        action="append",
        default=[],
        help="also return this blob, or all; may be repeated",
    )
    command.add_argument(
        "--stub-unsupported",
        action="store_true",
        help="make a method to be filled in of each layer of unknown type",
    )
    proofs.add_convert(command)
    predictions.add_preparation(command)
    command.add_argument(
        "--flat",
        action="store_true",
        help="write repeated blocks out instead of making classes of them",
    )
    command.add_argument(
        "--force", action="store_true", help="replace files that exist"
    )


def _run(command: argparse.ArgumentParser) -> None:
    _net(command)
    command.add_argument(
        "--inputs",
        metavar="IN.npz",
        type=Path,
        required=True,
        help="an array for each input blob",
    )
    command.add_argument(
        "--outputs",
        metavar="OUT.npz",
        type=Path,
        required=True,
        help="where the results go; replaced where it exists",
    )
    command.add_argument(
        "--blobs",
        metavar="all|outputs|NAME,...",
        type=_blobs,
        default="outputs",
        help="which blobs to write (default: the net's outputs)",
    )


def _upgrade(command: argparse.ArgumentParser) -> None:
    command.add_argument("net", metavar="OLD.prototxt", type=Path)
    _limits(command)
    command.add_argument(
        "-o",
        dest="output",
        metavar="NEW.prototxt",
        type=Path,
        help="where the text goes (default: standard output)",
    )
    command.add_argument(
        "--force", action="store_true", help="replace a file that exists"
    )


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o",
        dest="directory",
        metavar="DIR",
        type=Path,
        default=Path("caffe2flax-demo"),
        help="folder for the files (default: caffe2flax-demo)",
    )


def _net(command: argparse.ArgumentParser) -> None:
    """What tells which net is meant: files, and the state that its rules select by."""
    command.add_argument("net", metavar="NET.prototxt", type=Path)
    command.add_argument("weights", metavar="WEIGHTS.caffemodel", type=Path, nargs="*")
    _state(command)


def _state(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--phase", choices=("TEST", "TRAIN"), default="TEST", help="default: TEST"
    )
    _limits(command)
    command.add_argument(
        "--stage",
        dest="stages",
        metavar="S",
        action="append",
        default=[],
        help="a stage to select layers by; may be repeated",
    )
    command.add_argument("--level", metavar="N", type=int, default=0, help="default: 0")
    command.add_argument(
        "--input-shape",
        dest="input_shapes",
        metavar="BLOB=1,3,227,227",
        type=_input_shape,
        action=_Mapping,
        default={},
        help="the shape of an input, in Caffe's axis order; may be repeated",
    )
    command.add_argument(
        "--dialect",
        metavar="TYPE=MEANING",
        type=_dialect,
        action=_Mapping,
        default={},
        help="what a layer type of several meanings means: Crop=auto; may be repeated",
    )
    command.add_argument(
        "--plugin",
        dest="plugins",
        metavar="LAYERS.py",
        type=Path,
        action="append",
        default=[],
        help="a file of layers of your own, which is run; may be repeated",
    )


def _limits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limit",
        dest="limits",
        metavar="NAME=N",
        type=_limit,
        action=_Mapping,
        default={},
        help=f"how much a file may ask for: {', '.join(limits.NAMES)}",
    )


def _limit(text: str) -> tuple[str, int]:
    name, _, bound = text.partition("=")
    if name not in limits.NAMES or not re.fullmatch(r"[0-9]{1,18}", bound):
        names = ", ".join(limits.NAMES)
        message = f"{text!r} is not like layers=100000; there are {names}"
        raise argparse.ArgumentTypeError(message)
    return name, int(bound)


def _class_name(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot name a class")
    return text


def _input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    blob, _, sizes = text.rpartition("=")
    if not blob or not all(_SIZE.fullmatch(size) for size in sizes.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not like data=1,3,227,227")
    return blob, tuple(map(int, sizes.split(",")))


def _dialect(text: str) -> tuple[str, str]:
    type_, _, meaning = text.partition("=")
    if not type_ or not meaning:
        raise argparse.ArgumentTypeError(f"{text!r} is not like Crop=auto")
    return type_, meaning


def _blobs(text: str) -> str | tuple[str, ...]:
    if text in ("all", "outputs"):
        return text
    names = tuple(text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty name")
    return names


class _Command(argparse.ArgumentParser):
    """Takes options between the files: `convert net.prototxt -o out net.caffemodel`."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


class _Mapping(argparse.Action):
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


class _Version(argparse.Action):
    """Prints the version; it is looked up only then, which keeps --help quick."""

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
