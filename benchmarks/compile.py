"""What comes before the first result: loading, tracing, compiling, the first call.

Each network is measured in processes of its own: without JAX's persistent cache, and
with one that another process filled.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from speed.clock import timed, use_cores
from speed.networks import TITLES, network
from speed.page_costs import PARTS
from speed.results import environment, save
from speed.tables import Record

PACKAGES = ("caffe2flax", "jax", "jaxlib", "flax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=TITLES, default=list(TITLES))
    add("--batch", type=int, default=1)
    add("--alone", nargs=2, metavar=("FORM", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_cores(2)
    if options.alone:
        print(json.dumps(alone(options.networks[0], options.batch, *options.alone)))
        return
    ran_on = environment(*PACKAGES)
    from speed.ours import FORMS

    for name in options.networks:
        network(name)  # makes the weights where they are missing
        for form in FORMS:
            point = measure(name, form, options.batch)
            save("compile", {f"{name} {options.batch} {form}": point}, ran_on)
            for kind, found in point.items():
                times = ", ".join(f"{part} {found[part]:.2f} s" for part in PARTS)
                print(f"{name} {form} {kind}: {times}", flush=True)


def measure(name: str, form: str, batch: int) -> Record:
    """Seconds of each part, "cold" and "cached"."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--networks", name, "--batch", str(batch)]
        runs = {}
        for kind, folder in (("cold", ""), ("filling", cache), ("cached", cache)):
            done = subprocess.run(
                [*command, "--alone", form, folder],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            runs[kind] = json.loads(done.stdout.splitlines()[-1])
    del runs["filling"]
    return runs


def alone(name: str, batch: int, form: str, cache: str) -> Record:
    """In a process of its own; JAX itself has started before the clock runs."""
    import jax
    import numpy as np

    from speed import ours

    jax.config.update("jax_compilation_cache_dir", cache or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    net = network(name)
    images = np.ascontiguousarray(net.images(batch).transpose(0, 2, 3, 1))
    jax.block_until_ready(jax.device_put(images))
    made = ours.written(net, form)
    found: dict[str, Any] = {}
    steps = {
        "load": lambda: made.from_pretrained(),
        "prepare": lambda: ours.jitted(found["load"], images),
        "trace": lambda: found["prepare"][0].trace(found["prepare"][1], images),
        "lower": lambda: found["trace"].lower(),
        "compile": lambda: found["lower"].compile(),
        "run": lambda: np.asarray(found["compile"](found["prepare"][1], images)),
    }
    return {
        part: timed(lambda step=step, part=part: found.update({part: step()}))
        for part, step in steps.items()
    }


if __name__ == "__main__":
    main()
