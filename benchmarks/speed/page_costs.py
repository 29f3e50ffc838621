"""The parts of the results about compiling, converting, and growth."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from speed.networks import CONVERTED
from speed.process import MEGABYTE
from speed.tables import OURS, Record, in_order, table, title

PARTS = ("load", "first call", "second call")
"""What is timed, in that order."""

COMPILING = """\
## Before the first result

Seconds, each in a process of its own in which JAX has started: `load` is
`from_pretrained`, the first call traces and compiles. Cached is the same with JAX's
persistent cache, which an earlier process filled: with it programs do without oneDNN.
"""

CONVERTING = """\
## Converting

`caffe2flax convert` and `cp` of the caffemodel in turns, as whole processes, medians,
the files being in the page cache. Own memory is what the process takes beside the
pages of mapped files. The last column is a run whose data segment is limited to 300 MB.
"""

PEER = """\
### caffe-onnx

The same files through caffe-onnx, in a virtual environment of its own.
"""

SIZES = """\
## Converting, against the size of the model

Nets of 8 convolutions and a dense layer, half of the bytes in each.
"""

BATCHES = """\
## Images a second, against the batch

`compile` on one device, and `jax.jit` with the batch spread over two virtual devices
of the same two cores.
"""


def compiling(points: Record) -> Iterator[str]:
    yield COMPILING
    rows = []
    for key in in_order(points):
        form = key.split()[2]
        cold, cached = points[key]["cold"], points[key]["cached"]
        cells = [*(cold[part] for part in PARTS), *(cached[part] for part in PARTS[1:])]
        name = f"{title(key)}, {OURS[form]}"
        rows.append([name, *(f"{seconds:.2f}" for seconds in cells)])
    head = ["network, batch", *PARTS, *(f"{part}, cached" for part in PARTS[1:])]
    yield table(head, rows)


def converting(points: Record) -> Iterator[str]:
    yield CONVERTING
    rows = []
    for name in (name for name in CONVERTED if name in points):
        limited = "done" if points[name]["limited"] else "failed"
        rows.append([CONVERTED[name], *_conversion(points[name]), limited])
    yield table(["network", *CONVERSION, "under 300 MB"], rows)


CONVERSION = ("MB", "`cp`, s", "`convert`, s", "ratio", "own memory, MB")


def _conversion(point: Record) -> list[str]:
    seconds, copied = median(point["seconds"]), median(point["copies"])
    return [
        f"{point['bytes'] / MEGABYTE:.0f}",
        f"{copied:.3f}",
        f"{seconds:.2f}" + (" (failed)" if point.get("failed") else ""),
        f"{seconds / copied:.1f}",
        f"{point['own'] / MEGABYTE:.0f}",
    ]


def caffe_onnx(points: Record) -> Iterator[str]:
    yield PEER
    rows = [
        [
            CONVERTED[name],
            f"{points[name]['seconds']:.1f}",
            f"{points[name]['peak'] / MEGABYTE:.0f}",
            points[name]["ended"],
        ]
        for name in CONVERTED
        if name in points
    ]
    yield table(["network", "s", "memory, MB", ""], rows)


def sizes(points: Record) -> Iterator[str]:
    yield SIZES
    rows = [_conversion(points[size]) for size in sorted(points, key=float)]
    yield table(CONVERSION, rows)


def batches(points: Record) -> Iterator[str]:
    yield BATCHES
    rows = []
    for key in in_order(points):
        batch = int(key.split()[1])
        rates = (
            f"{batch / median(points[key][count]):.1f}" if count in points[key] else "-"
            for count in ("1", "2")
        )
        rows.append([title(key), *rates])
    yield table(["network, batch", "one device", "two devices"], rows)
