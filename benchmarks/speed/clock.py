"""Medians of interleaved rounds."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from statistics import median

PAUSE = 0.05
"""Seconds until the threads of the one before have stopped to wait for work."""

LONG = 0.2
"""Calls of more than so many seconds need no warming up."""

TURN = 0.1
MOST = 5


def interleave(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call, a number for each round.

    In each round everyone has a turn, in an order drawn anew: a pause, a call that does
    not count, and then 1 to 5 calls, the median of which counts.
    """
    order = list(calls)
    draw = random.Random(0)
    usual = {name: timed(call) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            if usual[name] < LONG:
                calls[name]()
            count = max(1, min(MOST, int(TURN / usual[name])))
            found[name].append(median(timed(calls[name]) for _ in range(count)))
    return found


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def use_cores(count: int) -> None:
    """Keeps this process on `count` cores, where the system can; to be called before
    anyone counts them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
