"""Functions that run a module for its results multiply float32 in full precision, also
on chips with TF32 or bfloat16: tested in the compiled programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.demo import demo
from tests.smallnets import save

NET = """
name: "Small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: [2, 4, 9, 9] } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 group: 2
    weight_filler { type: "xavier" } } }
layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up"
  convolution_param { num_output: 3 kernel_size: 2 stride: 2
    weight_filler { type: "xavier" } } }
layer { name: "norm" type: "LRN" bottom: "up" top: "norm" }
layer { name: "ip" type: "InnerProduct" bottom: "norm" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
DYNAMIC = (
    NET
    + """
layer { name: "chosen" type: "Input" top: "chosen" input_param { shape { dim: 2 } } }
layer { name: "filter" type: "Filter" bottom: "ip" bottom: "chosen" top: "few" }
"""
)
"""A net whose output has a shape that depends on its input: it runs without jit."""

PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general|dot)\b.*")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to which JAX writes every compiled program; they are compiled as for a
    GPU, though they run on the CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    folder = tmp_path / "programs"
    jax.clear_caches()  # of the operations that ran without jit before
    jax.config.update("jax_dump_ir_to", str(folder))
    yield folder
    jax.config.update("jax_dump_ir_to", None)


def products(programs: Path) -> list[str]:
    """The products in the programs; all have to be of the highest precision."""
    found = [
        line
        for path in sorted(programs.glob("*.mlir"))
        for line in PRODUCT.findall(path.read_text())
    ]
    assert all(len(re.findall("HIGHEST", line)) == 2 for line in found), found
    return found


def fed(net: str) -> dict[str, np.ndarray]:
    inputs = {"data": np.ones((2, 4, 9, 9), np.float32)}
    return inputs | ({"chosen": np.ones(2, np.float32)} if net == DYNAMIC else {})


RUNS: dict[str, Callable[[str], object]] = {
    "verify": caffe2flax.verify,
    "run": lambda net: caffe2flax.run(net, None, fed(net)),
    "run all": lambda net: caffe2flax.run(net, None, fed(net), blobs="all"),
}


@pytest.mark.parametrize("net", [NET, DYNAMIC], ids=["static", "dynamic"])
@pytest.mark.parametrize("run", RUNS)
def test_verify_and_run(run: str, net: str, programs: Path) -> None:
    RUNS[run](net)
    assert len(products(programs)) >= 3


def test_demo(tmp_path: Path, programs: Path) -> None:
    demo(tmp_path / "demo")
    assert len(products(programs)) >= 4


def test_what_is_decided_ends_with_the_run(programs: Path) -> None:
    """The tests above fail for lower precision."""
    caffe2flax.run(NET, None, fed(NET))
    caffe2flax.load(NET)(np.ones((2, 9, 9, 4), np.float32))
    with pytest.raises(AssertionError, match="DEFAULT"):
        products(programs)


@pytest.mark.parametrize("net", [NET, DYNAMIC], ids=["static", "dynamic"])
def test_emitted_tests(net: str, tmp_path: Path) -> None:
    source, weights = tmp_path / "small.prototxt", tmp_path / "small.caffemodel"
    source.write_text(net)
    slots = caffe2flax.convert(source).graph.layer_weights
    draw = np.random.default_rng(0)
    blobs = {
        name: [draw.standard_normal(w.shape) for w in weights]
        for name, weights in slots.items()
        if weights
    }
    given = [str(source), str(save(weights, blobs))]
    test = tmp_path / "test_small.py"
    assert main(["convert", *given, "-o", str(tmp_path)]) == 0
    assert main(["verify", *given, "--emit-test", str(test)]) == 0
    programs = tmp_path / "programs"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        env=os.environ | {"JAX_DUMP_IR_TO": str(programs)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert len(products(programs)) >= 3
