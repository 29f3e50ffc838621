"""The part of the results about GPUs and TPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from speed.networks import CLASSIC, CONVERTED
from speed.tables import Record, table

MODES = ("highest", "default", "bfloat16")

INTRODUCTION = """\
## Accelerators

The plain modules under `jax.jit` on one GPU or TPU. `highest` and `default` are float32
under that `jax.default_matmul_precision`, `bfloat16` is
`from_pretrained(dtype=jnp.bfloat16)`. Weights and images are on the device, each call
waits for its result, the times are medians.
"""

NOWHERE = """\
Not yet run on one: `python benchmarks/accelerator.py` fills this section.
"""

EXACT = "### Largest difference from numpy in float64, by the largest number\n"
RATES = "### Images a second\n"
FIRST = "### First call, in seconds\n"


def accelerators(points: Record) -> Iterator[str]:
    yield INTRODUCTION
    if not points:
        yield NOWHERE
        return
    keys = [key.split() for key in points]
    batches = sorted({int(batch) for _, batch, _ in keys})
    names = [name for name in CLASSIC if any(name == key[0] for key in keys)]
    yield EXACT
    yield _by_mode(points, names, [1], lambda _, point: f"{point['difference']:.0e}")
    yield RATES
    yield _by_mode(points, names, batches, _rate)
    yield FIRST
    yield _by_mode(points, names, batches, lambda _, point: f"{point['first']:.1f}")


def _rate(batch: int, point: Record) -> str:
    return f"{batch / median(point['seconds']):.1f}"


def _by_mode(
    points: Record,
    names: list[str],
    batches: list[int],
    cell: Callable[[int, Record], str],
) -> str:
    """A row for each network and batch, a column for each mode."""

    def shown(name: str, batch: int, mode: str) -> str:
        point = points.get(f"{name} {batch} {mode}")
        if point is None:
            return "-"
        return str(point["failure"]) if "failure" in point else cell(batch, point)

    rows = [
        [f"{CONVERTED[name]} {batch}", *(shown(name, batch, mode) for mode in MODES)]
        for name in names
        for batch in batches
    ]
    return table(["network, batch", *(f"`{mode}`" for mode in MODES)], rows)
