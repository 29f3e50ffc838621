"""Exactness and speed of the plain modules on a GPU or TPU: float32 in full
("highest"), float32 as XLA multiplies it unless told otherwise ("default"), bfloat16.

One command, which stops before it takes five minutes; with `--missing` another goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

import caffe2flax
from caffe2flax.verification.reference import evaluate
from speed import ours
from speed.clock import timed
from speed.networks import CLASSIC, Network, network
from speed.page_accelerator import MODES
from speed.results import environment, read, save
from speed.tables import Record

Array = NDArray[Any]
BATCHES = (1, 32, 256)
PACKAGES = ("caffe2flax", "jax", "jaxlib", "flax")

LIMIT = 240
"""Seconds after which nothing new is begun; what runs then has a minute more."""

TURN = 0.5
"""Seconds of calls that a median is taken of, but no fewer and no more calls than:"""
FEWEST = 5
MOST = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=CLASSIC, default=list(CLASSIC))
    add("--batches", nargs="+", type=int, default=list(BATCHES))
    add("--missing", action="store_true", help="only points that results.json lacks")
    options = parser.parse_args()
    end = time.monotonic() + LIMIT
    if jax.default_backend() == "cpu":
        sys.exit("JAX finds no GPU or TPU here")
    jax.config.update("jax_enable_compilation_cache", False)
    jax.block_until_ready(jnp.ones((8, 8)) @ jnp.ones((8, 8)))  # the libraries load
    ran_on = environment(*PACKAGES) | {"processor": jax.devices()[0].device_kind}
    known = read().get("accelerators", {"points": {}})["points"]
    nets = [network(name) for name in options.networks]
    done = known if options.missing else ()
    for key, point in measure(nets, options.batches, done):
        save("accelerators", {key: point}, ran_on)
        print(f"{key}: {summary(key, point)}", flush=True)
        if time.monotonic() > end:
            print("out of time: --missing goes on from here", file=sys.stderr)
            return


def measure(
    nets: Sequence[Network], batches: Sequence[int], done: Collection[str] = ()
) -> Iterator[tuple[str, Record]]:
    """A point for each "network batch mode" that is not `done`. Small batches of all
    networks come first."""
    for batch in batches:
        for net in nets:
            for mode in MODES:
                key = f"{net.name} {batch} {mode}"
                if key in done:
                    continue
                try:
                    yield key, measured(net, batch, mode)
                except jax.errors.JaxRuntimeError as error:  # of memory that is short
                    yield key, {"failure": str(error).partition(":")[0]}


def measured(net: Network, batch: int, mode: str) -> Record:
    """Seconds of the first call and of later ones, weights and images being on the
    device; at batch 1 how far the output is from numpy in float64, relative to the
    largest number in it."""
    dtype = jnp.bfloat16 if mode == "bfloat16" else None
    model = converted(net).from_pretrained(dtype=dtype)
    definition, state = nnx.split(model)
    state = jax.device_put(state)
    if batch == 1:
        images = jax.device_put(net.images(1).transpose(0, 2, 3, 1))
    else:
        _, channels, *size = net.shape(batch)
        images = jax.random.normal(jax.random.key(0), (batch, *size, channels))
    jax.block_until_ready((state, images))
    forward = jax.jit(lambda state, images: nnx.merge(definition, state)(images))

    def call() -> jax.Array:
        return jax.block_until_ready(forward(state, images))

    with jax.default_matmul_precision("highest" if mode == "highest" else "default"):
        first = timed(call)
        count = min(max(FEWEST, int(TURN / timed(call))), MOST)
        seconds = [round(timed(call), 7) for _ in range(count)]
        point: Record = {"first": first, "seconds": seconds}
        if batch == 1:
            expected = reference(net)
            far = np.abs(np.asarray(call(), np.float64).reshape(-1) - expected)
            point["difference"] = float(far.max() / np.abs(expected).max())
    return point


@cache
def converted(net: Network) -> Any:
    """The class of the module."""
    return ours.written(net)


@cache
def reference(net: Network) -> Array:
    """The output (classes,) for the image of batch 1, by numpy in float64."""
    (name,) = (value.blob for value in caffe2flax.convert(net.prototxt).graph.arguments)
    found = caffe2flax.convert(
        net.prototxt, net.weights, input_shapes={name: net.shape(1)}
    )
    values = evaluate(found.graph, found.blobs, {name: net.images(1)})
    return values[found.graph.outputs[0]].reshape(-1)


def summary(key: str, point: Record) -> str:
    """A point in few words."""
    if "failure" in point:
        return str(point["failure"])
    rate = int(key.split()[1]) / median(point["seconds"])
    off = f", off by {point['difference']:.0e}" if "difference" in point else ""
    return f"{rate:.1f} images a second, first call {point['first']:.1f} s{off}"


if __name__ == "__main__":
    main()
