"""What the benchmarks measure is what they say, and what they write can be read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import accelerator
import caffe2flax
import growth
from caffe2flax.frontend import caffemodel
from speed import ours, results
from speed.clock import interleave
from speed.lowering import Op, lower
from speed.networks import CONVERTED, TITLES, Network, prototxt, write_caffemodel
from speed.page import page
from speed.page_accelerator import MODES
from speed.page_costs import PARTS
from speed.process import run
from speed.tables import geometric_mean, ratios

PARAMETERS = {
    "alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "googlenet": 6_998_552,
    "squeezenet": 1_235_496,
    "vgg16": 138_357_544,
}
"""As published."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_are_those_that_people_know(name: str) -> None:
    assert caffe2flax.inspect(prototxt(name)).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", CONVERTED)
def test_every_network_has_a_prototxt(name: str) -> None:
    assert prototxt(name).exists()


def test_written_weights_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    blobs = [np.arange(60, dtype=np.float32).reshape(5, 4, 3, 1), np.ones(300, "f")]
    layers = [("conv", "Convolution", blobs), ("relu", "ReLU", [])]
    write_caffemodel(path, iter(layers))
    file = caffemodel.read(path)
    assert [(layer.name, layer.type) for layer in file.layers] == [
        (name, type_) for name, type_, _ in layers
    ]
    for found, blob in zip(file.layers[0].blobs, blobs, strict=True):
        np.testing.assert_array_equal(found, blob)


def evaluate(op: Op, x: np.ndarray) -> np.ndarray:
    """Two of the operations, by their definition."""
    if op.kind == "gemm":
        weight, bias = op.weights
        return x.reshape(len(x), -1) @ weight.T + bias
    assert op.kind == "softmax"
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_what_peers_are_given_computes_the_same(tmp_path: Path) -> None:
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text("""
        layer { name: "data" type: "Input" top: "data"
                input_param { shape { dim: 2 dim: 3 dim: 2 dim: 2 } } }
        layer { name: "drop" type: "Dropout" bottom: "data" top: "dropped" }
        layer { name: "fc" type: "InnerProduct" bottom: "dropped" top: "fc"
                inner_product_param { num_output: 5 } }
        layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
    """)
    draw = np.random.default_rng(0)
    blobs = [draw.standard_normal(shape).astype("f") for shape in ((5, 12), (5,))]
    write_caffemodel(weights, iter([("fc", "InnerProduct", blobs)]))
    program = lower(net, weights)
    assert (program.input_shape, program.output_shape) == ((2, 3, 2, 2), (2, 5))
    x = draw.standard_normal((2, 3, 2, 2)).astype("f")
    known = {program.input: x}
    for op in program.ops:
        known[op.output] = evaluate(op, known[op.inputs[0]])
    ours = caffe2flax.run(net, weights, {"data": x})["prob"]
    np.testing.assert_allclose(known[program.output], ours, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "end"),
    [
        ("kernel_size: 3 stride: 2", 1),
        ("kernel_size: 2 stride: 2", 0),
        ("kernel_size: 3 stride: 1 pad: 1", 1),
        ("kernel_size: 3 stride: 2 pad: 1", 2),
    ],
)
def test_pools_are_given_the_pixels_beyond_the_image(
    window: str, end: int, tmp_path: Path
) -> None:
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(f"""
        layer {{ name: "data" type: "Input" top: "data"
                input_param {{ shape {{ dim: 1 dim: 3 dim: 8 dim: 8 }} }} }}
        layer {{ name: "pool" type: "Pooling" bottom: "data" top: "pool"
                pooling_param {{ {window} }} }}
    """)
    write_caffemodel(weights, iter([("pool", "Pooling", [])]))
    (op,) = lower(net, weights).ops
    assert (op.kind, op.settings["end"]) == ("max_pool", (end, end))


@pytest.mark.parametrize("size", growth.SIZES)
def test_synthetic_nets_have_the_size_that_was_asked_for(size: float) -> None:
    width, dense = growth.widths(int(size * 1e6))
    net = caffe2flax.inspect(growth.synthetic(width, dense))
    assert abs(net.parameters * 4 / (size * 1e6) - 1) < 0.06


def test_everyone_has_as_many_turns() -> None:
    counts = dict.fromkeys("abc", 0)

    def call(name: str) -> Callable[[], None]:
        def count() -> None:
            counts[name] += 1

        return count

    found = interleave({name: call(name) for name in counts}, rounds=3)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys(
        counts, 3
    )
    assert len(set(counts.values())) == 1


def test_ratios_are_to_the_fastest_that_was_right() -> None:
    point = {
        "compiled": {"seconds": [3.0, 1.0, 2.0]},
        "onnxruntime": {"seconds": [4.0, 4.0, 4.0]},
        "torch": {"seconds": [1.0, 1.0, 9.0]},
        "openvino": {"failure": "wrong by 1e-01"},
    }
    assert ratios(point, "compiled") == {"onnxruntime": 0.5, "torch": 2.0, "best": 2.0}
    assert ratios(point, "jitted") == {}
    assert geometric_mean([0.5, 2.0]) == 1.0


def test_results_are_laid_over_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "DATA", tmp_path / "results.json")
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    ran_on = results.environment("numpy")
    entry = {"first": 1.0, "difference": 1e-6, "seconds": [0.002]}
    failed = {"failure": "RuntimeError"}
    for key in ("nin 10", "alexnet 1"):
        point = {"compiled": entry, "torch": entry, "openvino": failed}
        results.save("inference", {key: point}, ran_on)
    written = (tmp_path / "results.md").read_text()
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    assert rows[2:4] == [
        "| AlexNet 1 | 2.0 | RuntimeError | 2.0 |",
        "| NiN 10 | 2.0 | RuntimeError | 2.0 |",
    ]
    results.save("inference", {"nin 1": {"compiled": entry}}, ran_on | {"numpy": "0"})
    assert "starts anew" in capsys.readouterr().err
    assert list(results.read()["inference"]["points"]) == ["nin 1"]


def test_every_section_has_a_page() -> None:
    parts = dict.fromkeys(PARTS, 0.5)
    costs = {"copies": [0.1], "seconds": [0.3], "own": 5e6, "peak": 9e6, "bytes": 2e6}
    points = {
        "compile": {"nin 1 compiled": {"cold": parts, "cached": parts}},
        "training": {
            "caffenet 16": {
                "compiled": {"seconds": [0.6]},
                "jitted": {"seconds": [3.0]},
                "torch": {"seconds": [0.5]},
                "torch channels last": {"failure": "wrong by 1e-01"},
            }
        },
        "pipeline": {"caffenet 16": {"raw": 900.0}},
        "convert": {"lenet": costs | {"limited": True, "failed": 0}},
        "caffe-onnx": {"nin": {"seconds": 9.0, "peak": 1e9, "ended": "done"}},
        "sizes": {"64": costs, "4": costs},
        "batches": {"googlenet 2": {"1": [0.5], "2": [0.25]}},
    }
    ran_on = {"processor": "a processor", "numpy": "2"}
    written = page(
        {name: {"environment": ran_on, "points": p} for name, p in points.items()}
    )
    for row in (
        "| NiN 1, `compile` | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 |",
        "| CaffeNet 16 | 600.0 | 3000.0 | 500.0 | - | 1.20 | - | 27 |",
        "| CaffeNet 16 | 900 | - |",
        "| LeNet | 2 | 0.100 | 0.30 | 3.0 | 5 | done |",
        "| NiN | 9.0 | 1000 | done |",
        "| GoogLeNet 2 | 4.0 | 8.0 |",
        "Measured on a processor; numpy 2.",
    ):
        assert row in written
    assert set(TITLES) < set(CONVERTED)


def test_processes_are_stopped_and_limited() -> None:
    slow = run([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.2)
    assert slow.code is None
    assert slow.seconds < 30
    hungry = "bytearray(2**27)"
    command = [sys.executable, "-c", hungry]
    assert run(command).code == 0
    limited = run(command, data=2**26)
    assert limited.code == 1
    assert limited.last == "MemoryError"


TINY = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
        inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(ours, "WORK", tmp_path)
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(TINY)
    draw = np.random.default_rng(0)
    shapes = {"conv": ((4, 3, 3, 3), (4,)), "fc": ((5, 144), (5,))}
    blobs = {
        name: [0.1 * draw.standard_normal(shape).astype("f") for shape in each]
        for name, each in shapes.items()
    }
    types = {"conv": "Convolution", "fc": "InnerProduct"}
    write_caffemodel(weights, iter((n, types[n], b) for n, b in blobs.items()))
    return Network("lenet", net, weights)


def test_accelerators_are_measured_in_each_mode(tiny: Network) -> None:
    """On the CPU, where the two modes of float32 are the same."""
    points = dict(accelerator.measure([tiny], [1, 2], {"lenet 2 default"}))
    assert list(points) == [
        *(f"lenet 1 {mode}" for mode in MODES),
        "lenet 2 highest",
        "lenet 2 bfloat16",
    ]
    off = [points[f"lenet 1 {mode}"]["difference"] for mode in MODES]
    assert max(off[:2]) < 1e-6 < off[2] < 1e-2
    assert all(len(point["seconds"]) >= accelerator.FEWEST for point in points.values())
    points["lenet 2 highest"] = {"failure": "RESOURCE_EXHAUSTED"}
    points["lenet 1 default"]["seconds"] = [0.5, 0.25, 0.25]
    ran_on = {"processor": "a chip", "jax": "1"}
    written = page({"accelerators": {"environment": ran_on, "points": points}})
    exact, rates = written.split("### Images a second")
    assert f"| LeNet 1 | {off[0]:.0e} | {off[1]:.0e} | {off[2]:.0e} |" in exact
    first, second = (x for x in rates.split("###")[0].splitlines() if "LeNet" in x)
    assert first.split(" | ")[2] == "4.0"
    assert second.startswith("| LeNet 2 | RESOURCE_EXHAUSTED | - | ")
    assert "Measured on a chip; jax 1." in written
    assert "Not yet run" not in written
    assert "Not yet run" in page({})


def test_a_shortage_of_memory_is_a_result(
    tiny: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*arguments: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: of 9 bytes")

    monkeypatch.setattr(accelerator, "measured", out_of_memory)
    points = dict(accelerator.measure([tiny], [1]))
    assert points["lenet 1 highest"] == {"failure": "RESOURCE_EXHAUSTED"}


def test_without_an_accelerator_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["accelerator.py"])
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(SystemExit, match="no GPU or TPU"):
        accelerator.main()
