"""Medians, ratios, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from statistics import median
from typing import Any

from speed.networks import CONVERTED

Record = dict[str, Any]

OURS = {"compiled": "`compile`", "jitted": "`jax.jit`"}
"""Ways to call a module that `convert` wrote."""
PEERS = {
    "opencv-python-headless": "OpenCV DNN",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
}
"""The runtimes beside which ours are measured, by their packages."""


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


def in_order(points: Record) -> list[str]:
    """The keys "network batch ..." in the order of CONVERTED and of the batches."""
    names = list(CONVERTED)

    def place(key: str) -> tuple[int, int, str]:
        name, batch, *others = key.split()
        return names.index(name), int(batch), " ".join(others)

    return sorted(points, key=place)


def title(key: str) -> str:
    """The title of a network and the batch."""
    name, batch, *_ = key.split()
    return f"{CONVERTED[name]} {batch}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    marks = ["---", *("---:" for _ in head[1:])]
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
