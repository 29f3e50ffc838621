"""The part of the results about training."""

from __future__ import annotations

from collections.abc import Iterator

from speed.tables import Record, in_order, medians, table, title

STEPS = """\
## A training step

Milliseconds a step, medians: forward, backward, momentum; losses of three steps agree.
`compile` and `nnx.jit` are the same function. Below 1 `compile` is faster than PyTorch.
"""

PIPELINE = """\
## The input pipeline

Images a second from an LMDB, cropped, mirrored, the mean subtracted, in batches as they
enter the steps above, by the threads of one process with nothing beside it.
"""

HEAD = (
    "network, batch",
    "`compile`",
    "`nnx.jit`",
    "PyTorch",
    "PyTorch, channels last",
    "to PyTorch",
    "to channels last",
    "images a second",
)


def training(points: Record) -> Iterator[str]:
    yield STEPS
    rows = []
    for key in in_order(points):
        found = medians(points[key])
        forms = ("compiled", "jitted", "torch", "torch channels last")
        ours = found.get("compiled")
        cells = [f"{found[f] * 1e3:.1f}" if f in found else "-" for f in forms]
        for peer in forms[2:]:
            there = ours is not None and peer in found
            cells.append(f"{ours / found[peer]:.2f}" if there else "-")
        batch = int(key.split()[1])
        cells.append(f"{batch / ours:.0f}" if ours is not None else "-")
        rows.append([title(key), *cells])
    yield table(HEAD, rows)


def pipeline(points: Record) -> Iterator[str]:
    yield PIPELINE
    rows = []
    for key in in_order(points):
        rates = points[key]
        cells = [f"{rates[f]:.0f}" if f in rates else "-" for f in ("raw", "jpeg")]
        rows.append([title(key), *cells])
    yield table(("network, batch", "raw records", "JPEG records"), rows)
