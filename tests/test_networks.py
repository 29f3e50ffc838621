"""The classic networks: every blob against Caffe's fingerprint, and the module as a
user has it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from ruff import find_ruff_bin
from safetensors.numpy import load_file

import caffe2flax
from caffe2flax import cpu
from caffe2flax.conversion import read_graph
from caffe2flax.exports.onnx.observe import observe
from caffe2flax.exports.stablehlo import program
from caffe2flax.frontend import prototxt
from tests import wireformat
from tests.docs import exactness
from tests.exports.models import as_onnx, taken
from tests.golden import FIXTURES, distance

FOLDER = FIXTURES / "networks"
NETWORKS = sorted(path.stem for path in FOLDER.glob("*.prototxt"))
DEEP, SHALLOW, FIRST = 1e-4, 1e-5, 10
DOCUMENTED = {name.lower().replace("-", ""): row for name, row in exactness().items()}
"""What docs/exactness.md says of each network: blobs, largest difference."""
ANOTHER_CPU = 4
"""How much larger the difference may be where sums are in another order."""


def _seeded() -> ModuleType:
    return _import(FOLDER / "seeded.py")


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_seeded(net: Path, target: Path) -> Path:
    """A caffemodel with the golden weights of `net`."""
    seeded = _seeded()
    message = prototxt.read(net)
    types = {}
    for layer in message.all("layer"):
        name, type_ = (
            next(layer.value.all(key)).value.text for key in ("name", "type")
        )
        types[name] = type_
    with target.open("wb") as stream:
        for name, weights in read_graph(net).layer_weights.items():
            blobs = (
                wireformat.dims(*w.shape)
                + wireformat.chunk(
                    5, seeded.seeded_blob(name, types[name], i, w.shape).tobytes()
                )
                for i, w in enumerate(weights)
            )
            stream.write(wireformat.layer(*blobs, name=name, type=types[name]))
    return target


@pytest.fixture(scope="module", params=NETWORKS)
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """(prototxt, caffemodel)."""
    net = FOLDER / f"{request.param}.prototxt"
    weights = tmp_path_factory.mktemp(request.param) / f"{request.param}.caffemodel"
    yield net, write_seeded(net, weights)
    weights.unlink()


@pytest.fixture(scope="module")
def written(network: tuple[Path, Path]) -> tuple[Path, str]:
    """(path of the generated module, name of its class)."""
    net, weights = network
    conversion = caffe2flax.convert(net, weights)
    return conversion.write(weights.parent)[0], conversion.name


def inputs(net: Path) -> dict[str, np.ndarray]:
    graph = read_graph(net)
    seeded = _seeded()
    return {
        v.blob: seeded.seeded_input(v.blob, graph.shapes[v]) for v in graph.arguments
    }


def golden(net: Path) -> dict[str, np.ndarray]:
    with np.load(net.with_suffix(".npz")) as archive:
        return dict(archive)


def differences(
    ours: Mapping[str, np.ndarray], caffe: dict[str, np.ndarray]
) -> dict[str, float]:
    """The largest difference of each recorded blob that is in `ours` at the recorded
    places."""
    far = {}
    for key in caffe:
        name, _, kind = key.rpartition(":")
        blob = ours.get(name.removeprefix("blob:"))
        if kind != "value" or blob is None:
            continue
        assert blob.shape == tuple(caffe[f"{name}:shape"]), name
        _, _, low, high = caffe[f"{name}:stats"]
        found = blob.ravel()[caffe[f"{name}:index"]]
        span = max(1e-6, abs(low), abs(high))
        far[name] = float(np.max(np.abs(found - caffe[key]))) / span
    return far


@pytest.mark.parametrize("way", ["plain", "compiled"])
def test_every_blob(
    network: tuple[Path, Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blobs hold Caffe's values at the recorded places, under jax.jit and under
    compile."""
    if way == "plain":
        monkeypatch.setattr(cpu, "compile", jax.jit)
    net, weights = network
    caffe = golden(net)
    ours = caffe2flax.run(net, weights, inputs(net), blobs="all")
    far = differences(ours, caffe)
    names = list(far)
    assert len(far) > 5
    assert max(far.values()) <= DEEP, far
    assert max([far[name] for name in names[:FIRST]]) <= SHALLOW, far
    if way == "plain":
        blobs, documented = DOCUMENTED[net.stem]
        assert (len(far), max(far.values()) <= ANOTHER_CPU * documented) == (
            blobs,
            True,
        )


def test_module_as_written(
    network: tuple[Path, Path], written: tuple[Path, str]
) -> None:
    """The file, imported by itself and called in either way that
    the documents name, gives Caffe's output."""
    net, _ = network
    path, name = written
    model = getattr(_import(path), name).from_pretrained()
    (image,) = inputs(net).values()
    x = jnp.asarray(image.transpose(0, 2, 3, 1))
    (caffe,) = [v for k, v in golden(net).items() if k.endswith(":full")]
    for call in (caffe2flax.compile(model), partial(jax.jit(lambda m, x: m(x)), model)):
        ours = np.asarray(call(x))
        ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
        assert np.max(np.abs(ours - caffe)) <= DEEP * np.max(np.abs(caffe))


def test_source(written: tuple[Path, str]) -> None:
    """The source is clean in ruff's eyes and stands alone."""
    path, _ = written
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [find_ruff_bin(), *command, "--isolated", "--no-cache", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    tree = ast.parse(path.read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    allowed = {"jax", "flax", "safetensors", "numpy"}
    assert imported <= allowed | set(sys.stdlib_module_names)


SLOW_TO_COMPILE = {"googlenet", "resnet50", "vgg16"}


def test_program(network: tuple[Path, Path], written: tuple[Path, str]) -> None:
    """One StableHLO program with a symbolic batch, for CPU, GPU and TPU; read back, it
    gives Caffe's output at batch 1 and 3."""
    net, weights = network
    conversion = caffe2flax.convert(net, weights)
    content = program(conversion, dynamic=True, bundle=False).exported.serialize()
    assert len(content) < 80_000
    exported = jax.export.deserialize(content)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.out_avals[0].shape[0]) == "b"
    (image,) = inputs(net).values()
    (caffe,) = [v for k, v in golden(net).items() if k.endswith(":full")]
    variables = load_file(written[0].with_suffix(".safetensors"))
    for batch in (3,) if net.stem in SLOW_TO_COMPILE else (1, 3):
        x = np.resize(image, (batch, *image.shape[1:])).transpose(0, 2, 3, 1)
        ours = np.asarray(exported.call(variables, x))
        ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
        wanted = np.resize(caffe, (batch, *caffe.shape[1:]))
        assert np.max(np.abs(ours - wanted)) <= DEEP * np.max(np.abs(wanted))


def test_onnx(network: tuple[Path, Path], tmp_path: Path) -> None:
    """The model has Caffe's values at the recorded places in ONNX Runtime, and its
    output at batch 3."""
    net, weights = network
    conversion, path = caffe2flax.convert(net, weights), tmp_path / "net.onnx"
    translation = as_onnx(conversion, path, dynamic=True)
    caffe, given = golden(net), inputs(net)
    count = len(*given.values())
    batch = max(count, 3)
    more = taken(translation, given, batch)
    values = observe(path, translation, conversion, more).values
    last = conversion.graph.blobs.items()
    blobs = {name: np.asarray(values[v])[:count] for name, v in last if v in values}
    far = differences(blobs, caffe)
    assert len(far) > 5
    assert max(far.values()) <= SHALLOW
    (full,) = [v for k, v in caffe.items() if k.endswith(":full")]
    (port,) = translation.outputs
    wanted = np.resize(full, (batch, *full.shape[1:]))
    assert distance(np.asarray(values[port.value]), wanted) <= SHALLOW
    path.unlink()


UNFUSED = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""On CPUs XLA fuses layers and the pool behind them. In JAX 0.12 such a fusion reads a
number that nobody wrote for the zero, in bfloat16, that two ReLUs share."""


def unfused(function: Callable[..., jax.Array], *arguments: Any) -> jax.Array:
    lowered = jax.jit(function).lower(*arguments)
    with suppress(jax.errors.JaxRuntimeError):  # of a release without the option
        return lowered.compile(UNFUSED)(*arguments)
    return lowered.compile()(*arguments)


def test_bfloat16(network: tuple[Path, Path], written: tuple[Path, str]) -> None:
    """`dtype=jnp.bfloat16` computes in it, and stays near."""
    net, _ = network
    path, name = written
    cls = getattr(_import(path), name)
    (image,) = inputs(net).values()
    x = jnp.asarray(image[:1].transpose(0, 2, 3, 1))
    exact = np.asarray(jax.jit(lambda m, x: m(x))(cls.from_pretrained(), x))
    half = unfused(lambda m, x: m(x), cls.from_pretrained(dtype=jnp.bfloat16), x)
    assert half.dtype == jnp.bfloat16
    assert np.max(np.abs(np.asarray(half, np.float32) - exact)) <= 0.1 * exact.max()
