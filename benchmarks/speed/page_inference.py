"""The part of the results about inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speed.tables import (
    OURS,
    PEERS,
    Record,
    geometric_mean,
    in_order,
    medians,
    ratios,
    table,
    title,
)

INTRODUCTION = """\
## Inference

Medians of interleaved rounds in one process, two threads each, in an order drawn anew
in each round, with a pause of 50 ms between two of them, for which the threads of some
runtimes stay busy. A call takes an array of numpy in the runtime's own axis order and
gives one back; what it copies on the way counts. caffe2flax is the module as `convert`
writes it, by `caffe2flax.compile` and by `jax.jit`.
"""

AGREEMENT = """\
### First call, in seconds, and how well all agree

The first call of ours traces and compiles. The difference is that of the
runtime farthest off, from the output that Caffe recorded where there is one and else
from ours, relative to the largest number in it.
"""


def inference(points: Record) -> Iterator[str]:
    keys = in_order(points)
    yield INTRODUCTION
    yield _times(points, keys)
    for form, words in OURS.items():
        found = {key: ratios(points[key], form) for key in keys}
        found = {key: r for key, r in found.items() if r}
        if found:
            yield f"### Time of {words}, by that of each runtime\n"
            yield _ratios(found)
    yield AGREEMENT
    yield _first(points, keys)


def _ratios(found: dict[str, dict[str, float]]) -> str:
    names = (*PEERS, "best")
    rows = [
        [title(key), *(f"{r[n]:.2f}" if n in r else "-" for n in names)]
        for key, r in found.items()
    ]
    means = (
        geometric_mean([r[name] for r in found.values() if name in r]) for name in names
    )
    rows.append(["geometric mean", *(f"{mean:.2f}" for mean in means)])
    return table(["network, batch", *PEERS.values(), "fastest of these"], rows)


def _times(points: Record, keys: Sequence[str]) -> str:
    names = OURS | PEERS
    shown = [name for name in names if any(name in points[key] for key in keys)]

    def cell(point: Record, name: str) -> str:
        if name not in point:
            return "-"
        found = medians(point)
        if name in found:
            return f"{found[name] * 1e3:.1f}"
        return str(point[name]["failure"])

    rows = [[title(key), *(cell(points[key], n) for n in shown)] for key in keys]
    head = ["network, batch", *(names[n] for n in shown)]
    return "### Milliseconds a call\n\n" + table(head, rows)


def _first(points: Record, keys: Sequence[str]) -> str:
    forms = [f for f in OURS if any("first" in points[k].get(f, {}) for k in keys)]
    rows = []
    for key in keys:
        first = (points[key].get(form, {}).get("first") for form in forms)
        off = max(entry.get("difference", 0.0) for entry in points[key].values())
        cells = ("-" if seconds is None else f"{seconds:.2f}" for seconds in first)
        rows.append([title(key), *cells, f"{off:.0e}"])
    head = ["network, batch", *(OURS[f] for f in forms), "largest difference"]
    return table(head, rows)
