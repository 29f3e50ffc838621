"""Many inputs of one target, each under limits, whatever becomes of the process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS, Target

SECONDS = 2.0
"""Time of the processor that one input may take."""

MEGABYTES = 500
"""What one input may add to the memory of the process."""

HANG = 30.0
"""Seconds without an answer after which a worker is ended."""

BATCH = 5000
"""Inputs of one worker process: what it may have leaked goes with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that broke a promise; `key` is the same for what has the same cause."""

    target: str
    number: int
    key: str
    details: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What a campaign went through so far."""

    runs: int = 0
    accepted: int = 0
    slowest: float = 0.0

    def plus(self, runs: int, accepted: int, slowest: float) -> Tally:
        longest = max(self.slowest, slowest)
        return Tally(self.runs + runs, self.accepted + accepted, longest)


def attack(target: Target, data: bytes, folder: Path) -> tuple[bool, float]:
    """Whether the input was accepted, and the seconds it took. Raises what the target
    does; AssertionError where it took too long."""
    start = time.process_time()
    accepted = target.attack(data, folder)
    took = time.process_time() - start
    assert took <= SECONDS, f"took {took:.1f} s"
    return accepted, took


def run_here(
    target: Target, seed: int, numbers: Iterable[int], folder: Path
) -> Iterator[tuple[int, bool, float, Finding | None]]:
    """Number, acceptance, time and finding of each input, in this process."""
    for number in numbers:
        data = target.input(seed, number)
        try:
            accepted, took = attack(target, data, folder)
            yield number, accepted, took, None
        # Whatever else there is: that is what is looked for.
        except Exception as error:
            yield number, False, 0.0, _finding(target, number, error)


def run_apart(
    target: Target, seed: int, first: int, last: int, until: float
) -> Iterator[Finding | Tally]:
    """Inputs first..last in worker processes, until `until` by `time.monotonic`:
    findings as they come, and the tally after each batch."""
    tally = Tally()
    while first < last and time.monotonic() < until:
        batch = range(first, min(first + BATCH, last))
        for found in _batch(target, seed, batch, until):
            if isinstance(found, Finding):
                yield found
                continue
            tally = tally.plus(*found)
            first += found[0]
        yield tally


def _batch(
    target: Target, seed: int, numbers: range, until: float
) -> Iterator[Finding | tuple[int, int, float]]:
    """The findings of one worker; in the end its runs, acceptances and longest time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    current = context.Value("q", -1)
    worker = context.Process(
        target=_work, args=(target.name, seed, numbers, until, theirs, current)
    )
    worker.start()
    theirs.close()
    while True:
        try:
            silent = not ours.poll(HANG)
            if silent and current.value == _later(current, ours):
                worker.kill()
                worker.join()
                number = current.value
                yield Finding(target.name, number, "hangs", f"longer than {HANG} s")
                yield number + 1 - numbers.start, 0, HANG
                return
            if silent:
                continue
            found = ours.recv()
        except EOFError:
            worker.join()
            number, code = current.value, worker.exitcode or 0
            if number < 0:
                raise RuntimeError("the worker died before its first input") from None
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            yield Finding(target.name, number, f"dies of {how}", how)
            yield number + 1 - numbers.start, 0, 0.0
            return
        yield found
        if not isinstance(found, Finding):
            worker.join()
            return


def _later(current: Any, ours: Connection) -> int:
    """The number that the worker is at one more look later; -1 where it has spoken."""
    return -1 if ours.poll(1) else int(current.value)


def _work(
    name: str, seed: int, numbers: range, until: float, answers: Any, current: Any
) -> None:
    target = TARGETS[name]
    limit_memory()
    runs = accepted = 0
    slowest = 0.0

    def counted() -> Iterator[int]:
        for number in numbers:
            if time.monotonic() >= until:
                return
            current.value = number
            yield number

    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        for _, well, took, found in run_here(target, seed, counted(), Path(folder)):
            runs += 1
            accepted += well
            slowest = max(slowest, took)
            if found is not None:
                answers.send(found)
            if runs % 500 == 0:
                gc.collect()
    answers.send((runs, accepted, slowest))


def limit_memory() -> None:
    """Allows this process MEGABYTES more than it takes with all that inputs load."""
    try:
        import resource
    except ImportError:  # a system without limits
        return
    import h5py  # type: ignore[import-untyped] # noqa: F401

    for target in TARGETS.values():
        with tempfile.TemporaryDirectory() as folder:
            target.attack(target.seeds()[0], Path(folder))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    size = pages * os.sysconf("SC_PAGESIZE") + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def shared_memory() -> str | None:
    """A folder that is no disk, where the system has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _finding(target: Target, number: int, error: Exception) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "caffe2flax" in f.filename] or list(frames)
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    details = "".join(traceback.format_exception(error))
    return Finding(target.name, number, f"{type(error).__name__} {place}", details)
