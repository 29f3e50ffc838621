"""Time of a forward pass beside the runtimes that people leave.

Results go into `results.md` and `results.json` after each point, so a run may stop and
go on, or measure a part anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from speed import ours
from speed.clock import interleave, timed, use_cores
from speed.lowering import lower
from speed.networks import TITLES, Network, network
from speed.peers import BUILD, THREADS
from speed.results import environment, read, save
from speed.tables import OURS, PEERS, Record, medians, ratios

Array = NDArray[np.float32]
TOLERANCE = 1e-4
PACKAGES = ("caffe2flax", "jax", "jaxlib", "flax", "numpy", *PEERS)


def main() -> None:
    options = parse()
    use_cores(THREADS)
    jax.config.update("jax_enable_compilation_cache", False)
    ran_on = environment(*PACKAGES)
    known = read().get("inference", {"points": {}})["points"]
    for name in options.networks:
        for batch in options.batches:
            key = f"{name} {batch}"
            if options.missing and key in known:
                continue
            point = measure(network(name), batch, options.rounds, options.peers)
            save("inference", {key: point}, ran_on)
            print(line(key, point), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=TITLES, default=list(TITLES))
    add("--batches", nargs="+", type=int, default=[1, 10])
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    add("--rounds", type=int, default=9)
    add("--quick", action="store_true", help="3 rounds")
    add("--missing", action="store_true", help="only points that results.json lacks")
    options = parser.parse_args()
    options.rounds = 3 if options.quick else options.rounds
    return options


def measure(net: Network, batch: int, rounds: int, peers: list[str]) -> Record:
    """Seconds of every contender that gives the right output, by name."""
    point: Record = {}
    calls: dict[str, Callable[[], Array]] = {}
    expected = net.recorded() if batch == 1 else None
    for name, build in contenders(net, batch, peers):
        try:
            call = build()
            seconds, output = first(call)
        except Exception as error:  # whatever a runtime raises is its result
            point[name] = {"failure": f"{type(error).__name__}"}
            print(f"{net.title} {batch}: {name}: {error}")
            continue
        expected = output if expected is None else expected
        off = difference(output, expected)
        point[name] = {"first": seconds, "difference": off}
        if not off <= TOLERANCE:
            point[name]["failure"] = f"wrong by {off:.0e}"
            print(f"{net.title} {batch}: {name} is wrong by {off:.1e}")
            continue
        calls[name] = call
    for name, found in interleave(calls, rounds).items():
        point[name]["seconds"] = [round(seconds, 7) for seconds in found]
    return point


Build = Callable[[], Callable[[], Array]]


def contenders(
    net: Network, batch: int, peers: list[str]
) -> Iterator[tuple[str, Build]]:
    """Our forms first, for what they give is held against the others."""
    images = net.images(batch)
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    model = ours.model(net)

    def bound(run: Callable[[Array], Array], x: Array) -> Callable[[], Array]:
        return lambda: run(x)

    for form in OURS:
        yield form, lambda form=form: bound(ours.called(model, form), last)
    program = lower(net.prototxt, net.weights)
    for peer in peers:
        yield peer, lambda peer=peer: bound(BUILD[peer](net, program, batch), images)


def first(call: Callable[[], Array]) -> tuple[float, Array]:
    """Seconds of the first call, and its output as (N, classes)."""
    outputs: list[Any] = []
    seconds = timed(lambda: outputs.append(call()))
    (output,) = outputs
    return seconds, output.reshape(len(output), -1).copy()


def difference(output: Array, expected: Array) -> float:
    """The largest, relative to the largest number of what is expected."""
    if output.shape != expected.shape or not np.isfinite(output).all():
        return float("inf")
    return float(np.abs(output - expected).max() / np.abs(expected).max())


def line(key: str, point: Record) -> str:
    """A point in one line."""
    found = medians(point)
    times = ", ".join(f"{name} {s * 1e3:.1f}" for name, s in found.items())
    best = [
        f"{form} / best {r['best']:.2f}" for form in OURS if (r := ratios(point, form))
    ]
    return f"{key}: {'; '.join(best)} (ms: {times})"


if __name__ == "__main__":
    main()
