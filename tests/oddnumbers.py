"""Odd numbers in place of every number of every layer fixture.

    python -m tests.oddnumbers [--all] [--unset] [--seconds 60] [--seed 0] [--evaluate]

Each net converts or is refused with a ConversionError, in 2 seconds of the processor
and 500 MB. Without --all a sample runs that `--seconds` bounds. With --evaluate the
float64 reference computes what converts, on random inputs. With --unset the numbers
stand in fields that a fixture leaves at their defaults.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import caffe2flax
from caffe2flax.conversion import read_graph
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.frontend.prototxt import parse
from caffe2flax.ir.params import Params
from tests.forklayers import fork_nets
from tests.golden import FIXTURES
from tests.written import written_cases

if TYPE_CHECKING:
    from caffe2flax.conversion import Conversion

ROOT = Path(__file__).parents[1]

ODD = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "-0.0",
    "0",
    "-1",
    "1.5",
    "1e10",
    "0x10",
    "010",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967296",
    "9223372036854775808",
    "18446744073709551616",
)
SECONDS = 2.0
BYTES = 500 * 2**20
SMALL = 10**6
"""Elements of the blobs of a net that the reference computes."""

HUNG = 20
"""Seconds of the clock after which a worker ends itself."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A net with one number replaced: of which fixture, on which line, by what."""

    fixture: str
    line: int
    field: str
    number: str
    text: str
    phase: str = "TEST"

    def __str__(self) -> str:
        return f"{self.fixture}:{self.line} {self.field}: {self.number}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """error: what was raised beside ConversionError. seconds: of the processor.
    peak: bytes beyond what the worker had before."""

    error: str
    refused: bool
    seconds: float
    peak: int

    @property
    def fault(self) -> str:
        """What is wrong with it, "" where nothing is."""
        if self.error:
            return self.error
        if self.seconds > SECONDS:
            return f"{self.seconds:.1f} s"
        return f"{self.peak >> 20} MB" if self.peak > BYTES else ""


def odd_nets(numbers: Sequence[str] = ODD) -> Iterator[Odd]:
    """Every fixture with each of its numbers replaced by each of `numbers`."""
    for name, phase, text in fixtures():
        lines = text.split("\n")
        for field, number in _numbers(parse(text)):
            line, column = number.span.line, number.span.column - 1
            before = lines[line - 1]
            assert before.startswith(number.text, column), (name, number)
            for odd in numbers:
                changed = before[:column] + odd + before[column + len(number.text) :]
                net = "\n".join([*lines[: line - 1], changed, *lines[line:]])
                yield Odd(name, line, field, odd, net, phase)


def unset_nets(numbers: Sequence[str] = ODD) -> Iterator[Odd]:
    """Fixtures with one more number: in a field that a layer reads and the fixture does
    not give, once for each layer type and field."""
    done: set[tuple[str, str, str]] = set()
    for name, phase, text in fixtures():
        for asked in _asked(text, phase):
            if asked[:3] in done:
                continue
            done.add(asked[:3])
            type_, message, field, place, missing = asked
            for odd in numbers:
                given = f" {field}: {odd} "
                given = f" {message} {{{given}}} " if missing else given
                net = text[:place] + given + text[place:]
                line = text.count("\n", 0, place) + 1
                yield Odd(name, line, f"{type_} {message}.{field}", odd, net, phase)


Asked = tuple[str, str, str, int, bool]
"""Layer type, message, field, where it may be given, and whether its message is
missing there."""


def _asked(text: str, phase: str) -> list[Asked]:
    """The numbers that layers read and the net does not give."""
    found: list[Asked] = []
    lines = [0, *(m.end() for m in re.finditer("\n", text))]

    def ask(params: Params, name: str, type_: type) -> None:
        layer = params
        while layer.name != "layer" and layer.parent is not None:
            layer = layer.parent
        holder = params if params.message is not None else params.parent
        if type_ in (int, float) and not params.has(name) and layer.message is not None:
            span = holder.message.span if holder and holder.message else None
            kinds = [f.value for f in layer.message.all("type")]
            if span is not None and span.line and kinds:
                place = lines[span.line - 1] + span.column
                kind = getattr(kinds[0], "text", "")
                absent = params.message is None
                found.append((kind, params.name, name, place, absent))

    def get(self: Params, name: str, default: Any) -> Any:
        ask(self, name, type(default))
        return usual[0](self, name, default)

    def optional(self: Params, name: str, type_: Any) -> Any:
        ask(self, name, type_)
        return usual[1](self, name, type_)

    def every(self: Params, name: str, type_: Any) -> Any:
        ask(self, name, type_)
        return usual[2](self, name, type_)

    usual = Params.get, Params.optional, Params.all
    with (
        patch.object(Params, "get", get),
        patch.object(Params, "optional", optional),
        patch.object(Params, "all", every),
        suppress(caffe2flax.ConversionError),
    ):
        read_graph(text, phase=phase)
    return found


def fixtures() -> Iterator[tuple[str, str, str]]:
    """Name, phase and text of each net."""
    for folder in ("layers", "fork_layers"):
        facts = json.loads((FIXTURES / folder / "index.json").read_text())
        phases = {fact["name"]: fact["phase"] for fact in facts}
        for path in sorted((FIXTURES / folder).glob("*.prototxt")):
            yield path.stem, phases.get(path.stem, "TEST"), path.read_text()
    for type_, text in fork_nets():
        yield type_, "TEST", text
    for case in written_cases():
        yield case.name, case.facts.get("phase", "TEST"), case.prototxt


def _numbers(message: Message) -> Iterator[tuple[str, Scalar]]:
    for field in message.fields:
        if isinstance(field.value, Message):
            yield from _numbers(field.value)
        elif field.value.kind == "number":
            yield field.name, field.value


class Worker:
    """A process that converts one net after the other; another one after a crash."""

    def __init__(self, evaluate: bool = False) -> None:
        self._command = [sys.executable, "-m", "tests.oddnumbers", "--serve"]
        self._command += ["--evaluate"] * evaluate
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, odd: Odd) -> Outcome:
        sent, received = self._process.stdin, self._process.stdout
        assert sent is not None
        assert received is not None
        sent.write(json.dumps([odd.text, odd.phase]) + "\n")
        sent.flush()
        line = received.readline()
        if line:
            return Outcome(**json.loads(line))
        self._process.communicate()
        status = self._process.returncode
        self._process = self._start()
        return Outcome(f"hung or died: status {status}", False, HUNG, 0)

    def close(self) -> None:
        self._process.communicate()


def faults(
    nets: Iterable[Odd], seconds: float = float("inf"), *, evaluate: bool = False
) -> Iterator[tuple[Odd, Outcome]]:
    """Every net with its outcome, as many as fit into `seconds`."""
    worker = Worker(evaluate)
    end = time.monotonic() + seconds
    try:
        for odd in nets:
            if time.monotonic() > end:
                return
            yield odd, worker(odd)
    finally:
        worker.close()


def _serve(evaluate: bool) -> None:
    import resource
    import signal

    from caffe2flax.codegen.library import library
    from caffe2flax.layers import register_all

    register_all()
    library()
    room = _status("VmSize") + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for line in sys.stdin:
        text, phase = json.loads(line)
        signal.alarm(HUNG)
        outcome = _outcome(text, phase, evaluate)
        signal.alarm(0)
        print(json.dumps(asdict(outcome)), flush=True)


def _outcome(text: str, phase: str, evaluate: bool) -> Outcome:
    import os
    import traceback

    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    held, before = _status("VmRSS"), os.times()
    error, refused = "", False
    try:
        conversion = caffe2flax.convert(text, phase=phase)
        if evaluate:
            _evaluate(conversion)
        del conversion
    except caffe2flax.ConversionError:
        refused = True
    except Exception as raised:
        last = traceback.extract_tb(raised.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        error = f"{type(raised).__name__}: {str(raised)[:200]} at {where}"
    after = os.times()
    seconds = sum(after[:4]) - sum(before[:4])
    return Outcome(error, refused, seconds, _status("VmHWM") - held)


def _evaluate(conversion: Conversion) -> None:
    """The reference with random weights and inputs, where the net is small."""
    import numpy as np

    from caffe2flax.verification.inputs import noise, noise_blobs
    from caffe2flax.verification.reference import evaluate

    graph = conversion.graph
    shapes = [
        *graph.shapes.values(),
        *(w.shape for n in graph.nodes for w in n.weights),
    ]
    if sum(map(prod, shapes)) > SMALL:
        return
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate(graph, noise_blobs(graph), noise(graph, {}))


def _status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    held = Path("/proc/self/status").read_text()
    return int(held.partition(f"{field}:")[2].split()[0]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every net")
    parser.add_argument("--unset", action="store_true", help="fields at their defaults")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(options.evaluate)
        return 0
    nets = list(unset_nets() if options.unset else odd_nets())
    if not options.all:
        random.Random(options.seed).shuffle(nets)
    seconds = float("inf") if options.all else options.seconds
    tried = refused = wrong = 0
    for odd, outcome in faults(nets, seconds, evaluate=options.evaluate):
        tried, refused = tried + 1, refused + outcome.refused
        if outcome.fault:
            wrong += 1
            print(f"{odd}: {outcome.fault}", flush=True)
    print(f"{tried} nets of {len(nets)}, {refused} refused, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
