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
in each round. A call takes an array of numpy in the runtime's own axis order and gives
one back; what it copies on the way counts. The forms of caffe2flax are called as the
project's README says.
"""

AGREEMENT = """\
### First call, in seconds, and how well all agree

The first call of a form of ours traces and compiles it. The difference is that of the
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
            yield f"### Time of the {words}, by that of each runtime\n"
            yield _ratios(found)
    yield AGREEMENT
    yield _first(points, keys)
    yield from _asides(points, keys)


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


def _asides(points: Record, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        found = medians(points[key])
        if "default" not in found:
            continue
        if "bare" in found:
            more = found["default"] / found["bare"] - 1
            yield (
                f"{title(key)}: called as the README says, the default form takes "
                f"{abs(more):.1%} {'more' if more >= 0 else 'less'} time than the bare "
                "compiled executable.\n"
            )
        if "plain" in found:
            times = found["plain"] / found["default"]
            yield (
                f"{title(key)}: the default form is {times:.1f} times as fast as the "
                "same module with XLA's own convolutions.\n"
            )
