"""python -m tests.fuzz: attacks on the readers of files, for ten minutes."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz import guided
from tests.fuzz.campaign import (
    MEGABYTES,
    SECONDS,
    Finding,
    Tally,
    attack,
    limit_memory,
    run_apart,
)
from tests.fuzz.targets import TARGETS, Target

MINUTES = 10
SHOWN = 3
"""Findings of one cause that are shown and kept."""


def main() -> int:
    options = _parser().parse_args()
    names = options.targets or list(TARGETS)
    if options.input:
        return _again(TARGETS[names[0]], options.input)
    seconds = options.seconds
    if seconds is None and options.iterations is None:
        seconds = 60 * MINUTES
    each = seconds / len(names) if seconds else float("inf")
    options.keep.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in names:
        if options.engine == "atheris":
            bad += guided.run(
                name, each, options.iterations, options.seed, options.keep
            )
        else:
            bad += _campaign(TARGETS[name], each, options)
    if bad:
        print(f"findings are in {options.keep}; --input FILE runs one again")
    return 1 if bad else 0


def _campaign(target: Target, seconds: float, options: argparse.Namespace) -> int:
    causes: Counter[str] = Counter()
    last = options.first + (options.iterations or sys.maxsize)
    start = time.monotonic()
    tally = Tally()
    for found in run_apart(target, options.seed, options.first, last, start + seconds):
        if isinstance(found, Tally):
            tally = found
            continue
        causes[found.key] += 1
        if causes[found.key] <= SHOWN:
            _report(found, target.input(options.seed, found.number), options.keep)
    print(
        f"{target.name}: {tally.runs:,} inputs in {time.monotonic() - start:.0f} s, "
        f"{tally.accepted:,} accepted, the slowest took {tally.slowest:.2f} s; "
        f"{causes.total()} break a promise of {SECONDS:g} s, {MEGABYTES} MB and no "
        f"exception but ConversionError",
        flush=True,
    )
    for cause, times in causes.most_common():
        print(f"  {times:6,} {cause}")
    return causes.total()


def _report(found: Finding, data: bytes, folder: Path) -> None:
    name = f"{found.target}-{hashlib.sha256(data).hexdigest()[:12]}"
    (folder / name).write_bytes(data)
    print(f"{found.target} input {found.number}, kept as {name}:\n{found.details}")


def _again(target: Target, path: Path) -> int:
    """One input, as it was kept."""
    limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        accepted, took = attack(target, path.read_bytes(), Path(folder))
    print(f"{'accepted' if accepted else 'refused'} in {took:.2f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    add("--seconds", type=float, help=f"for all targets; default {60 * MINUTES}")
    add("--iterations", type=int, help="inputs of each target")
    add("--first", type=int, default=0, help="number of the first input")
    add("--seed", type=int, default=0, help="another one makes other inputs")
    engines = ("atheris", "own")
    default = "atheris" if find_spec("atheris") else "own"
    add("--engine", choices=engines, default=default, help="default here: %(default)s")
    folder = Path(tempfile.gettempdir()) / "caffe2flax-fuzz"
    add("--keep", type=Path, default=folder, help="folder of findings: %(default)s")
    add("--input", type=Path, help="run this file against the (one) target")
    return parser


if __name__ == "__main__":
    sys.exit(main())
