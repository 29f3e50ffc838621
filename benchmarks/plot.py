"""Draws `ratios.svg` of the inference part of `results.json`: everyone's time by that
of the fastest runtime that is not ours."""

from __future__ import annotations

import argparse

import matplotlib as mpl
from matplotlib.figure import Figure

from speed.networks import HERE
from speed.results import read
from speed.tables import OURS, PEERS, Record, in_order, medians, title

TARGET = HERE / "ratios.svg"
MARKS = {
    "compiled": ("caffe2flax.compile", "D", "#d62728", 60),
    "jitted": ("jax.jit of the same module", "D", "#ff9896", 40),
    "opencv-python-headless": ("OpenCV DNN", "o", "#7f7f7f", 28),
    "onnxruntime": ("ONNX Runtime", "s", "#1f77b4", 28),
    "openvino": ("OpenVINO", "^", "#2ca02c", 32),
    "torch": ("PyTorch", "v", "#9467bd", 32),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    mpl.rcParams["svg.hashsalt"] = "caffe2flax"  # the same file for the same numbers
    figure = draw(read()["inference"]["points"])
    figure.savefig(TARGET, metadata={"Date": None, "Creator": None})
    print(TARGET.name)


def draw(points: Record) -> Figure:
    """A row a point of measurement, a mark a runtime, on a logarithmic scale."""
    keys = in_order(points)
    figure = Figure(figsize=(8, 0.32 * len(keys) + 1.6), layout="constrained")
    axes = figure.subplots()
    for name, (label, marker, color, size) in MARKS.items():
        places, values = [], []
        for place, key in enumerate(keys):
            found = medians(points[key])
            best = min((found[peer] for peer in PEERS if peer in found), default=None)
            if name in found and best is not None:
                places.append(place)
                values.append(found[name] / best)
        if values:
            above = 3 if name in OURS else 2
            options = {"marker": marker, "color": color, "s": size, "zorder": above}
            axes.scatter(values, places, label=label, **options)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = (0.5, 0.7, 1, 1.5, 2, 3, 5)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(keys)), [title(key) for key in keys])
    axes.invert_yaxis()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("time by that of the fastest other runtime; left is faster")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    main()
