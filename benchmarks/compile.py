"""What comes before the first result: loading, and the first call, which compiles.

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
from speed.tables import OURS, Record

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
    for name in options.networks:
        network(name)  # makes the weights where they are missing
        for form in OURS:
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
    made = ours.written(net)
    loaded: list[Any] = []
    load = timed(lambda: loaded.append(made.from_pretrained()))
    run = ours.called(loaded[0], form)
    first, second = (timed(lambda: run(images)) for _ in range(2))
    return dict(zip(PARTS, (load, first, second), strict=True))


if __name__ == "__main__":
    main()
