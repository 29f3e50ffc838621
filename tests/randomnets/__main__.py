"""python -m tests.randomnets: random valid nets of all layer types of Caffe 1.0, each
converted as usual, flat, tapped and by `caffe2flax.compile`, against the float64
reference. A net that is off, refused or fails is shrunk and printed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.conftest import be_strict
from tests.randomnets.check import Failure, check
from tests.randomnets.draw import random_net
from tests.randomnets.net import Net, text_of
from tests.randomnets.shrink import Steps, shrink

MINUTES = 10
SHOWN = 2
"""Failures of one kind that are shrunk."""


def main() -> int:
    options = _parser().parse_args()
    be_strict()
    start, kinds, types = time.monotonic(), Counter[str](), Counter[str]()
    number, magnified, worst = options.first, 0, 0.0
    while time.monotonic() - start < options.seconds:
        net = random_net(f"{options.seed} {number}")
        outcome = check(net.steps, net.phase)
        types.update(step.type for step in net.steps if step.type != "Input")
        magnified += outcome.magnified
        if outcome.failure is None and not outcome.magnified:
            worst = max(worst, outcome.worst)
        if outcome.failure is not None:
            kinds[outcome.failure.kind] += 1
            if kinds[outcome.failure.kind] <= SHOWN:
                _show(number, net, outcome.failure)
        number += 1
    print(
        f"{number - options.first} nets, {types.total()} layers of {len(types)} types: "
        f"{kinds.total()} failures; the worst of the others is off by {worst:.1e}; "
        f"{magnified} magnify rounding though each layer is right"
    )
    for kind, times in kinds.most_common():
        print(f"  {times:6,} {kind}")
    return 1 if kinds else 0


def _show(number: int, net: Net, failure: Failure) -> None:
    def fails(steps: Steps) -> bool:
        found = check(steps, net.phase).failure
        return found is not None and found.kind == failure.kind

    smallest = shrink(tuple(net.steps), net.shapes, fails)
    found = check(smallest, net.phase).failure or failure
    print(f"net {number}, {net.phase}: {found.kind}\n{found.details}")
    print(text_of(smallest), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.randomnets", description=__doc__
    )
    add = parser.add_argument
    add("--seconds", type=float, default=60 * MINUTES, help="default: %(default)s")
    add("--seed", type=int, default=0, help="another one makes other nets")
    add("--first", type=int, default=0, help="number of the first net")
    return parser


if __name__ == "__main__":
    sys.exit(main())
