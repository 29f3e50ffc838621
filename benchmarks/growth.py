"""What growth costs: images a second against the batch, on one and on two virtual
devices, and time and memory of `convert` against the size of the model."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from speed.clock import interleave, use_cores
from speed.networks import TITLES, WORK, Network, network, write_caffemodel
from speed.process import MEGABYTE, convert, copy
from speed.results import environment, save
from speed.tables import Record

Array = NDArray[np.float32]
BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (1, 4, 16, 64, 256, 1024, 1500)
CONVOLUTIONS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="*", choices=TITLES, default=["googlenet", "mobilenet"])
    add("--batches", nargs="+", type=int, default=list(BATCHES))
    add("--sizes", nargs="*", type=float, default=list(SIZES), help="megabytes")
    add("--rounds", type=int, default=5)
    options = parser.parse_args()
    use_cores(2)
    for megabytes in options.sizes:
        point = conversion(int(megabytes * MEGABYTE), options.rounds)
        save("sizes", {f"{megabytes:g}": point}, environment("caffe2flax", "numpy"))
        seconds, copied = median(point["seconds"]), median(point["copies"])
        own = point["own"] / MEGABYTE
        print(f"{megabytes:g} MB: {seconds:.2f} s, cp {copied:.2f} s, {own:.0f} MB own")
    ran_on = environment("caffe2flax", "jax", "jaxlib", "flax")
    for name in options.networks:
        for batch in options.batches:
            point = throughput(network(name), batch, options.rounds)
            save("batches", {f"{name} {batch}": point}, ran_on)
            rates = {d: round(batch / median(s), 1) for d, s in point.items()}
            print(f"{name} {batch}: images a second by devices: {rates}", flush=True)


def throughput(net: Network, batch: int, rounds: int) -> Record:
    """Seconds a call on one device, and on two where the batch can be halved."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from speed import ours

    if jax.config.jax_num_cpu_devices != 2:
        jax.config.update("jax_num_cpu_devices", 2)
    images = np.ascontiguousarray(net.images(batch).transpose(0, 2, 3, 1))
    model = ours.model(net)
    called = ours.called(model, "compiled")
    calls: dict[str, Callable[[], object]] = {"1": lambda: called(images)}
    if batch % 2 == 0:
        mesh = Mesh(np.array(jax.devices("cpu")[:2]), ("batch",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        spread = NamedSharding(mesh, PartitionSpec("batch"))
        weights, tree = jax.tree.flatten(model)
        held = jax.device_put(weights, everywhere)
        forward = jax.jit(lambda weights, x: jax.tree.unflatten(tree, weights)(x))
        calls["2"] = lambda: np.asarray(forward(held, jax.device_put(images, spread)))
    for call in calls.values():
        call()
    found: Record = interleave(calls, rounds)
    return found


def conversion(size: int, rounds: int) -> Record:
    """Seconds and memory of converting a net of about `size` bytes."""
    with tempfile.TemporaryDirectory(dir=WORK) as temporary:
        home = Path(temporary)
        prototxt, weights, folder = home / "net.prototxt", home / "net", home / "out"
        folder.mkdir()
        width, dense = widths(size)
        prototxt.write_text(synthetic(width, dense))
        write_caffemodel(weights, synthetic_layers(width, dense))
        copies, outcomes = [], []
        copy(weights, home / "copy")  # and what else is slower the first time
        convert(prototxt, weights, folder)
        for _ in range(rounds):
            copies.append(copy(weights, home / "copy"))
            outcomes.append(convert(prototxt, weights, folder))
        for outcome in outcomes:
            if outcome.code:
                raise RuntimeError(f"convert of {size} bytes failed: {outcome.last}")
        return {
            "bytes": weights.stat().st_size,
            "copies": copies,
            "seconds": [outcome.seconds for outcome in outcomes],
            "own": max(outcome.own for outcome in outcomes),
            "peak": max(outcome.peak for outcome in outcomes),
        }


def widths(size: int) -> tuple[int, int]:
    """Channels and dense outputs: half the bytes in convolutions, half behind them."""
    width = max(1, round((size / 2 / (CONVOLUTIONS * 9 * 4)) ** 0.5))
    return width, max(1, round(size / 2 / (width * 49 * 4)))


def synthetic(width: int, dense: int) -> str:
    """8 convolutions of 3x3 at 7x7 pixels, and a dense layer behind them."""
    dims = " ".join(f"dim: {d}" for d in (1, width, 7, 7))
    lines = [
        'name: "Synthetic"',
        f'layer {{ name: "data" type: "Input" top: "data" '
        f"input_param {{ shape {{ {dims} }} }} }}",
    ]
    last = "data"
    for i in range(CONVOLUTIONS):
        lines.append(
            f'layer {{ name: "conv{i}" type: "Convolution" bottom: "{last}" '
            f'top: "conv{i}" convolution_param {{ num_output: {width} pad: 1 '
            "kernel_size: 3 bias_term: false } }"
        )
        last = f"conv{i}"
    lines.append(
        f'layer {{ name: "fc" type: "InnerProduct" bottom: "{last}" top: "fc" '
        f"inner_product_param {{ num_output: {dense} bias_term: false }} }}"
    )
    return "\n".join(lines) + "\n"


def synthetic_layers(width: int, dense: int) -> Iterator[tuple[str, str, list[Array]]]:
    """Weights whose numbers do not matter."""
    some = np.random.default_rng(0).random(2**20, np.float32)
    for i in range(CONVOLUTIONS):
        yield f"conv{i}", "Convolution", [np.resize(some, (width, width, 3, 3))]
    yield "fc", "InnerProduct", [np.resize(some, (dense, width * 49))]


if __name__ == "__main__":
    main()
