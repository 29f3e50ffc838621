"""Time of a step of training, by `compile` and by nnx.jit, beside PyTorch; and the rate
of the input pipeline.

Everyone computes the same step in one process, in turns. The losses of three steps must
agree. Results go into `results.md` and `results.json`, unless `--print`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax

from caffe2flax.training.library.memory import keep_memory
from speed import pipeline, steps
from speed.clock import interleave, timed, use_cores
from speed.peers import THREADS
from speed.results import environment, save
from speed.tables import Record, medians

POINTS = {"lenet": 64, "caffenet": 16, "resnet50": 4}
FORMS: dict[str, Callable[..., steps.Step]] = {
    "compiled": steps.jax_step,
    "jitted": steps.jax_step,
    "torch": steps.torch_step,
    "torch channels last": steps.torch_step,
}
PARTS = ("steps", "pipeline")
TOLERANCE = 1e-3
READERS = ("caffe2flax", "grain", "lmdb", "numpy", "pillow")
PACKAGES = ("caffe2flax", "jax", "jaxlib", "flax", "optax", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=POINTS, default=list(POINTS))
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add("--rounds", type=int, default=9)
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--print", action="store_true", help="do not write the results")
    options = parser.parse_args()
    use_cores(THREADS)
    keep_memory()  # as training scripts do; everyone shares this process
    jax.config.update("jax_enable_compilation_cache", False)
    for name in options.networks if "pipeline" in options.parts else ():
        batch = POINTS[name]
        forms = pipeline.FORMS[: 1 if name == "lenet" else None]
        rates = {form: round(pipeline.rate(name, batch, form), 1) for form in forms}
        print(f"{name} {batch}, images a second: {rates}", flush=True)
        if not options.print:
            save("pipeline", {f"{name} {batch}": rates}, environment(*READERS))
    for name in options.networks if "steps" in options.parts else ():
        batch = POINTS[name]
        point = measure(name, batch, options.forms, options.rounds)
        found = medians(point)
        times = ", ".join(f"{form} {s * 1e3:.1f}" for form, s in found.items())
        print(f"{name} {batch}, ms: {times}", flush=True)
        if not options.print:
            save("training", {f"{name} {batch}": point}, environment(*PACKAGES))


def measure(name: str, batch: int, forms: list[str], rounds: int) -> Record:
    """Seconds of everyone whose losses are right, by name."""
    net = steps.trained(name)
    images, labels = steps.data(net, batch)
    point: Record = {}
    calls: dict[str, Callable[[], object]] = {}
    expected: list[float] = []
    for form in forms:
        losses: list[Any] = []
        try:
            step = FORMS[form](net, images, labels, form)
            first = timed(lambda step=step, losses=losses: losses.append(step()))
            losses += [step(), step()]
        except ImportError as error:
            point[form] = {"failure": type(error).__name__}
            print(f"{name}: {form}: {error}")
            continue
        expected = expected or losses
        pairs = zip(losses, expected, strict=True)
        off = max(abs(ours - other) / abs(other) for ours, other in pairs)
        point[form] = {"first": first, "difference": off}
        if not off <= TOLERANCE:
            point[form]["failure"] = f"wrong by {off:.0e}"
            print(f"{name}: {form}: {losses}, not {expected}")
            continue
        calls[form] = step
    for form, found in interleave(calls, rounds).items():
        point[form]["seconds"] = [round(seconds, 7) for seconds in found]
    return point


if __name__ == "__main__":
    main()
