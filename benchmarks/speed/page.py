"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from statistics import median
from typing import Any

from speed.networks import TITLES
from speed.results import Record, table

OURS = {"default": "default form", "optimized": "`--optimize` form"}
PEERS = {
    "opencv-python-headless": "OpenCV DNN",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
}


def page(data: Record) -> str:
    """`results.md`."""
    parts = [INTRODUCTION]
    for section, render in SECTIONS.items():
        if section in data:
            parts += render(data[section]["points"])
            parts.append(_ran_on(data[section]["environment"]))
    return "\n".join(parts)


def _ran_on(environment: Mapping[str, str]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in environment.items() if k != "processor")
    return f"Measured on {environment['processor']}; {versions}.\n"


def geometric_mean(values: Sequence[float]) -> float:
    return prod(values) ** (1 / len(values)) if values else float("nan")


def medians(point: Record) -> dict[str, float]:
    """Seconds of everyone who was right."""
    return {
        name: median(entry["seconds"])
        for name, entry in point.items()
        if "seconds" in entry
    }


def ratios(point: Record, form: str) -> dict[str, float]:
    """Time of a form of ours by that of each peer; "best" is the fastest of them."""
    found = medians(point)
    peers = {name: found[name] for name in PEERS if name in found}
    if form not in found or not peers:
        return {}
    by = {name: found[form] / seconds for name, seconds in peers.items()}
    return by | {"best": max(by.values())}


def _inference(points: Record) -> Iterator[str]:
    yield INFERENCE
    order = list(TITLES)
    keys = sorted(points, key=lambda k: (order.index(k.split()[0]), int(k.split()[1])))
    yield _times(points, keys)
    for form, words in OURS.items():
        rows = []
        for key in keys:
            found = ratios(points[key], form)
            if found:
                cells = [f"{found[n]:.2f}" if n in found else "-" for n in PEERS]
                rows.append([_title(key), *cells, f"{found['best']:.2f}"])
        if not rows:
            continue
        means = [
            geometric_mean([r[n] for k in keys if n in (r := ratios(points[k], form))])
            for n in (*PEERS, "best")
        ]
        rows.append(["geometric mean", *(f"{mean:.2f}" for mean in means)])
        yield f"### Ratio of the {words} to each runtime, below 1 is faster\n"
        yield table(["network, batch", *PEERS.values(), "best of these"], rows)
    yield from _asides(points, keys)


def _title(key: str) -> str:
    name, batch = key.split()
    return f"{TITLES[name]} {batch}"


def _times(points: Record, keys: Sequence[str]) -> str:
    names = {**OURS, **PEERS}
    shown = [n for n in names if any(n in points[key] for key in keys)]
    rows = []
    for key in keys:
        point, found = points[key], medians(points[key])
        cells = [
            f"{found[n] * 1e3:.1f}" if n in found else _failure(point.get(n))
            for n in shown
        ]
        rows.append([_title(key), *cells])
    return "### Milliseconds a call\n\n" + table(
        ["network, batch", *(names[n] for n in shown)], rows
    )


def _failure(entry: Any) -> str:
    if entry is None:
        return "-"
    return entry.get("failure", "wrong")


def _asides(points: Record, keys: Sequence[str]) -> Iterator[str]:
    rows = []
    for key in keys:
        cells = [
            f"{points[key][form]['first']:.2f}"
            if "first" in points[key].get(form, {})
            else "-"
            for form in OURS
        ]
        off = max(e.get("difference", 0.0) for e in points[key].values())
        rows.append([_title(key), *cells, f"{off:.0e}"])
    yield "### First call, in seconds, and how well all agree\n"
    yield AGREEMENT
    head = ["network, batch", *OURS.values(), "largest difference"]
    yield table(head, rows)
    for key in keys:
        found = medians(points[key])
        if "default" not in found:
            continue
        if "bare" in found:
            more = found["default"] / found["bare"] - 1
            yield (
                f"{_title(key)}, called as the README says, takes {more:+.1%} of the "
                "time of the bare compiled executable.\n"
            )
        if "plain" in found:
            times = found["plain"] / found["default"]
            yield (
                f"{_title(key)} is {times:.1f} times as fast as with XLA's own "
                "convolutions.\n"
            )


INTRODUCTION = """\
# Results

Written by the scripts in this folder; `README.md` says how to run them again.
"""

INFERENCE = """\
## Inference

Medians of interleaved rounds in one process, two threads each, in an order drawn anew
in each round. A call takes an array of numpy in the runtime's own axis order and gives
one back; what it copies on the way counts. The forms of caffe2flax are called as the
README says.
"""

AGREEMENT = """\
The first call of a form of ours traces and compiles it. The difference is that of the
runtime farthest off, from the output that Caffe recorded where there is one and else
from ours, relative to the largest number in it.
"""

SECTIONS = {"inference": _inference}
