"""Commands in processes of their own, with the time and the memory that they took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
LONGEST = 120
"""Seconds after which a command is considered hung."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """status: the exit status, negative for a signal. seconds: processor time, which
    depends less on other processes than wall time. peak: resident bytes."""

    status: int
    out: str
    err: str
    seconds: float
    peak: int


class Contained:
    """Runs commands, each in a fork of a process that has imported everything."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, *argv: str | Path) -> Outcome:
        sent, received = self._process.stdin, self._process.stdout
        assert sent is not None
        assert received is not None
        sent.write(json.dumps([str(arg) for arg in argv]) + "\n")
        sent.flush()
        return Outcome(**json.loads(received.readline()))


@contextmanager
def contained() -> Iterator[Contained]:
    command = [sys.executable, "-m", "tests.contained"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Contained(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    from caffe2flax.cli.main import main
    from caffe2flax.codegen.library import library
    from caffe2flax.frontend.prototxt import parse
    from caffe2flax.layers import register_all

    register_all()
    parse("a: 1")
    library()
    for line in sys.stdin:
        print(json.dumps(_forked(main, json.loads(line))), flush=True)


def _forked(main: Any, argv: list[str]) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        with os.fdopen(write, "w") as report:
            _run(main, argv, report)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as report:
        told = report.read()
    _, status, _ = os.wait4(child, 0)
    if told:
        found: dict[str, Any] = json.loads(told)
        return found
    status = os.waitstatus_to_exitcode(status)
    return {"status": status, "out": "", "err": "died", "seconds": 0.0, "peak": 0}


def _run(main: Any, argv: list[str], report: IO[str]) -> None:
    import io
    import signal

    signal.alarm(LONGEST)
    sys.stdin = io.StringIO()
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    before = os.times()
    try:
        status = main(argv)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 70
    after = os.times()
    seconds = sum(after[:4]) - sum(before[:4])
    held = Path("/proc/self/status").read_text()
    peak = int(held.partition("VmHWM:")[2].split()[0]) * 1024
    told = {"status": status, "seconds": seconds, "peak": peak}
    told |= {
        "out": sys.stdout.getvalue()[: 10**6],
        "err": sys.stderr.getvalue()[: 10**6],
    }
    json.dump(told, report)


if __name__ == "__main__":
    _serve()
