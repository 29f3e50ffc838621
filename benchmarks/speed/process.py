"""Commands, timed as a whole, and the memory that they take."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 10**6
CAFFE2FLAX = (sys.executable, "-P", "-m", "caffe2flax")
TICK = 0.002
"""Seconds between two looks at a process's memory."""

LIMITED = """\
import os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished process.

    peak: bytes of memory at most, pages of mapped files among them. own: the same
    without those. Both are 0 where the system does not tell. code: exit status, None
    where it ran out of time. last: the last line that it wrote about what went wrong.
    """

    seconds: float
    peak: int
    own: int
    code: int | None
    last: str


def run(
    command: Sequence[str], *, limit: float = 600, data: int | None = None
) -> Outcome:
    """Runs `command` for at most `limit` seconds, with at most `data` bytes of memory
    of its own (its data segment)."""
    if data is not None:
        command = [sys.executable, "-c", LIMITED, str(data), *command]
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=_environment()
        )
        most = {"RssAnon": 0, "VmHWM": 0}
        watch = threading.Thread(target=_watch, args=(process.pid, most))
        watch.start()
        # `wait(limit)` would look every 50 ms only.
        end = threading.Timer(limit, process.kill)
        end.start()
        code: int | None = process.wait()
        seconds = time.perf_counter() - start
        end.cancel()
        watch.join()
        if seconds >= limit:
            code = None
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    return Outcome(seconds, most["VmHWM"], most["RssAnon"], code, "".join(last))


def _environment() -> dict[str, str]:
    """Ours, but Python keeps what it compiled, as it usually does."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _watch(pid: int, most: dict[str, int]) -> None:
    """Keeps the largest memory of a process in `most`, by the names of Linux, until it
    ends."""
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        fields = dict(line.split(":", 1) for line in lines)
        if not most.keys() <= fields.keys():
            return
        for name in most:
            most[name] = max(most[name], int(fields[name].split()[0]) * 1024)
        time.sleep(TICK)


def copy(source: Path, target: Path) -> float:
    """Seconds of `cp source target`, the target being new."""
    target.unlink(missing_ok=True)
    seconds = run(["cp", str(source), str(target)]).seconds
    target.unlink()
    return seconds


def convert(
    prototxt: Path, weights: Path, folder: Path, *, data: int | None = None
) -> Outcome:
    """`caffe2flax convert` into an empty folder."""
    for path in folder.glob("*"):
        path.unlink()
    arguments = [str(prototxt), str(weights), "-o", str(folder)]
    return run([*CAFFE2FLAX, "convert", *arguments], data=data)
