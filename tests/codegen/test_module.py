"""The generated module for its user: names, taps, transformations, errors."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.flax import load_file, save_file

import caffe2flax
from caffe2flax.codegen.library import library, own_texts, read
from caffe2flax.codegen.names import NNX_ATTRIBUTES, Namespace, identifier
from tests.golden import FIXTURES, distance

DEPLOY = FIXTURES / "digits" / "deploy.prototxt"
WEIGHTS = FIXTURES / "digits" / "digits_lenet.caffemodel"


def images(count: int = 4) -> jax.Array:
    with np.load(FIXTURES / "digits" / "digits_test.npz") as archive:
        data = archive["data"][:count].astype(np.float32) / 16
    return jnp.asarray(data.transpose(0, 2, 3, 1))


jit = jax.jit(lambda model, x: model(x))


@pytest.fixture(scope="module")
def digits() -> Any:
    return caffe2flax.load(DEPLOY, WEIGHTS)


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def net(*layers: str, channels: int = 3) -> str:
    """A net over `data` (2, channels, 6, 6)."""
    shape = f"shape {{ dim: 2 dim: {channels} dim: 6 dim: 6 }}"
    head = (
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }}'
    )
    return "\n".join([head, *layers])


def conv(name: str, bottom: str, top: str | None = None) -> str:
    return (
        f"layer {{ name: {name!r} type: 'Convolution' bottom: {bottom!r} "
        f"top: {top or name!r} convolution_param {{ num_output: 4 kernel_size: 3 "
        "weight_filler { type: 'xavier' } } }"
    ).replace(f"top: {top}", f"top: {top!r}")


def relu(name: str, bottom: str, top: str) -> str:
    return f"layer {{ name: {name!r} type: 'ReLU' bottom: {bottom!r} top: {top!r} }}"


NAMES = {
    "inception_3a/1x1": "inception_3a_1x1",
    "conv1-dw": "conv1_dw",
    "3x3": "n3x3",
    "__class__": "class__",
    "": "unnamed",
    "héllo wörld": "h_llo_w_rld",
    "a" * 10_000: "a" * 60,
    "class": "class_",
    "self": "self_",
    "print": "print_",
    "jnp": "jnp_",
    "match": "match_",
    "l": "l_",
    "max_pool": "max_pool_2",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=range(len(NAMES)))
def test_names(name: str, expected: str) -> None:
    assert Namespace(["max_pool"]).claim(name) == expected


def test_names_stay_apart() -> None:
    names = Namespace()
    found = [names.claim(name) for name in ("a/b", "a-b", "a_b", "a_b_2", "if", "if_")]
    assert found == ["a_b", "a_b_2", "a_b_3", "a_b_2_2", "if_", "if__2"]
    assert all(word == identifier(word) for word in found)


def test_attributes_of_nnx_are_not_overwritten() -> None:
    """The list of reserved attributes contains all those of an nnx.Module."""
    public = {name for name in dir(nnx.Module) if not name.startswith("_")}
    assert public <= NNX_ATTRIBUTES


HOSTILE = (
    '"""',
    "'); __import__('os').system('true')  #",
    "\n    import os",
    "\\",
    "\u202e",
    "__import__",
    "{0}",
    "rngs",
)


def test_operations_are_found_without_parsing() -> None:
    """As by Python's own parser, order and all."""
    ours, true = library(), read(own_texts())
    assert ours == true
    assert [*ours.definitions] == [*true.definitions]


def test_hostile_names() -> None:
    """Names of a net, of layers and of blobs are data in the source, and round-trip."""
    blobs = [f"{name}!" for name in HOSTILE]
    quoted = [_quote(blob) for blob in blobs]
    bottoms = ['"data"', *quoted]
    layers = [
        f"layer {{ name: {_quote(name)} type: 'ReLU' bottom: {a} top: {b} }}"
        for name, a, b in zip(HOSTILE, bottoms, quoted, strict=False)
    ]
    text = f"name: {_quote(HOSTILE[1])}\n" + net(*layers)
    conversion = caffe2flax.convert(text, taps="all")
    tree = ast.parse(conversion.source)
    assert conversion.source.isascii()
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    network = classes[conversion.name]
    called = {n.func.id for n in ast.walk(network) if _is_plain_call(n)}
    assert called == {"check_shape"}
    x = np.ones((2, 3, 6, 6), np.float32)
    assert caffe2flax.run(text, None, {"data": x}, blobs="all").keys() == {
        "data",
        *blobs,
    }


def _quote(text: str) -> str:
    escaped = "".join(f"\\{byte:03o}" for byte in text.encode())
    return f'"{escaped}"'


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_one_output_is_an_array_several_are_a_dict() -> None:
    one = caffe2flax.load(net(conv("c", "data")))
    assert one(jnp.ones((2, 6, 6, 3))).shape == (2, 4, 4, 4)
    two = caffe2flax.load(net(conv("c/1", "data"), conv("c/2", "data")))
    assert two(jnp.ones((2, 6, 6, 3))).keys() == {"c/1", "c/2"}


def test_unread_input_is_no_argument() -> None:
    """`run` takes and returns it all the same, as Caffe's net does."""
    text = "input: 'a' input: 'b' input_shape { dim: 2 } input_shape { dim: 3 }"
    x = {"a": np.zeros(2, np.float32), "b": np.ones(3, np.float32)}
    found = caffe2flax.run(text + relu("r", "a", "c"), None, x)
    assert found.keys() == {"c", "b"}
    model = caffe2flax.load(text + relu("r", "a", "c"))
    assert model(jnp.ones(2)).shape == (2,)


def test_taps(digits: Any) -> None:
    """`(output, {blob: array})`; without taps the code stays as it is."""
    tapped = caffe2flax.load(DEPLOY, WEIGHTS, taps=["pool1", "ip1"])
    x = images()
    output, taps = jax.jit(lambda m, x: m(x))(tapped, x)
    assert taps.keys() == {"pool1", "ip1"}
    assert taps["pool1"].shape == (4, 12, 12, 8)
    np.testing.assert_array_equal(output, jax.jit(lambda m, x: m(x))(digits, x))


BN = """
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }
layer { name: "sc" type: "Scale" bottom: "bn" top: "sc"
  scale_param { bias_term: true } }
"""


def test_a_tap_keeps_what_a_fold_would_swallow() -> None:
    assert "Scale(" not in caffe2flax.convert(net(BN)).source
    kept = caffe2flax.convert(net(BN), taps=["bn"])
    assert "Scale(" in kept.source
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    found = caffe2flax.run(net(BN), None, {"data": x}, blobs=["bn", "sc"])
    np.testing.assert_allclose(found["bn"], x / np.sqrt(1e-5), rtol=1e-5)


def test_no_fold_over_a_layer_between() -> None:
    apart = BN.replace('bottom: "bn"', 'bottom: "r"') + relu("r", "bn", "r")
    ordered = "\n".join(
        sorted(apart.strip().splitlines(), key=lambda s: "sc" in s[:20])
    )
    assert "Scale(" in caffe2flax.convert(net(ordered)).source


def test_from_pretrained_refuses_other_weights(tmp_path: Path) -> None:
    """Names and shapes that differ are listed."""
    small = caffe2flax.convert(DEPLOY, WEIGHTS)
    path, stored = small.write(tmp_path)
    text = DEPLOY.read_text().replace("num_output: 48", "num_output: 40")
    other = caffe2flax.convert(text.replace('"conv1"', '"convx"'), name="Other")
    (path,) = other.write(tmp_path)
    with pytest.raises(ValueError, match=r"ip1\.bias is \(48,\) in") as caught:
        imported(path).Other.from_pretrained(stored)
    for part in ("convx.kernel is missing", "conv1.kernel is unknown", "(40,)"):
        assert part in str(caught.value)


def stored_as(path: Path, name: str, dtype: Any) -> Path:
    """The same file with one tensor of another type."""
    weights = load_file(path)
    weights[name] = weights[name].astype(dtype)
    changed = path.with_stem(f"{path.stem}_{jnp.dtype(dtype).name}")
    save_file(weights, changed)
    return changed


def test_from_pretrained_takes_floats_alone(tmp_path: Path) -> None:
    """Any float becomes the module's float32; integers are refused by their type."""
    path, stored = caffe2flax.convert(DEPLOY, WEIGHTS).write(tmp_path)
    cls = imported(path).DigitsLeNet
    whole = cls.from_pretrained(stored).ip1.kernel[...]
    for dtype in (jnp.float16, jnp.bfloat16):
        half = cls.from_pretrained(stored_as(stored, "ip1.kernel", dtype))
        kernel = half.ip1.kernel[...]
        assert kernel.dtype == jnp.float32
        assert np.array_equal(kernel, whole.astype(dtype).astype(jnp.float32))
    for integer in (jnp.uint32, jnp.int8, jnp.bool_):
        changed = stored_as(stored, "ip1.kernel", integer)
        told = f"fit this model: ip1.kernel is {jnp.dtype(integer).name}$"
        with pytest.raises(ValueError, match=told):
            cls.from_pretrained(changed)


def test_initialises_by_fillers() -> None:
    """The prototxt's fillers; without one, Flax's default, with a note."""
    text = net(conv("c", "data")).replace("'xavier'", "'gaussian' std: 0.01")
    named = caffe2flax.convert(text)
    assert "kernel_init=nnx.initializers.normal(0.01)" in named.source
    assert named.notes == ()
    zero = caffe2flax.load(text.replace("'gaussian' std: 0.01", "'constant'"))
    assert float(jnp.abs(zero.c.kernel[...]).max()) == 0
    bare = caffe2flax.convert(text.replace("weight_filler", "bias_filler"))
    assert "kernel_init" not in bare.source
    assert "no weight_filler" in bare.notes[0]


def test_dropout_trains_with_rngs(digits: Any) -> None:
    model = nnx.clone(digits)
    model.train()
    x = images(16)
    call = nnx.jit(lambda m, x, rngs: m(x, rngs=rngs))
    a, b = (call(model, x, nnx.Rngs(dropout=seed)) for seed in (0, 1))
    assert float(jnp.abs(a - b).max()) > 0
    model.eval()
    np.testing.assert_array_equal(jit(model, x), jit(digits, x))


def test_grad_and_vmap(digits: Any) -> None:
    x = images()
    gradients = jax.jit(jax.grad(lambda m, x: jnp.sum(m(x)[:, 3])))(digits, x)
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == 8
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in leaves)
    one_by_one = jax.jit(jax.vmap(lambda image: digits(image[None])[0]))(x)
    assert distance(np.asarray(one_by_one), np.asarray(jit(digits, x))) <= 1e-5


SHARDED = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
sys.path.insert(0, sys.argv[1])
from digitslenet import DigitsLeNet
model = DigitsLeNet.from_pretrained()
x = jnp.asarray(np.random.default_rng(0).random((8, 28, 28, 1), np.float32))
call = jax.jit(lambda m, x: m(x))
mesh = Mesh(np.array(jax.devices()), ("batch",))
split = call(model, jax.device_put(x, NamedSharding(mesh, P("batch"))))
assert len(split.sharding.device_set) == 2, split.sharding
np.testing.assert_allclose(split, call(model, x), rtol=1e-5, atol=1e-7)
assert not any(name.split(".")[0] == "caffe2flax" for name in sys.modules)
"""


def test_batch_over_devices(tmp_path: Path) -> None:
    """A batch on two devices, with no change of the module."""
    caffe2flax.convert(DEPLOY, WEIGHTS).write(tmp_path)
    flags = "--xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", SHARDED, str(tmp_path)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        check=True,
    )


def test_writes_all_or_nothing(tmp_path: Path) -> None:
    conversion = caffe2flax.convert(DEPLOY, WEIGHTS)
    paths = conversion.write(tmp_path)
    assert [path.name for path in paths] == [
        "digitslenet.py",
        "digitslenet.safetensors",
    ]
    before = {path: path.read_bytes() for path in paths}
    with pytest.raises(FileExistsError):
        conversion.write(tmp_path)

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.write(tmp_path, force=True, progress=fail)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    conversion.write(tmp_path, force=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_run_checks_its_inputs() -> None:
    good = np.zeros((4, 1, 28, 28), np.float32)
    for inputs, text in (
        ({}, "'data' is missing"),
        ({"data": good, "dat": good}, "'dat' is no input"),
        ({"data": good[:, :, :20]}, "has shape"),
    ):
        with pytest.raises(caffe2flax.ConversionError, match=text):
            caffe2flax.run(DEPLOY, WEIGHTS, inputs)


def test_nested_operands_keep_their_precedence() -> None:
    """In-place layers on a sum: the sum is computed first."""
    text = net(
        conv("a", "data"),
        conv("b", "data"),
        "layer { name: 's' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 's' }",
        "layer { name: 'p' type: 'Power' bottom: 's' top: 's' "
        "power_param { scale: 3 shift: 1 } }",
        relu("r", "s", "s"),
    )
    x = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    found = caffe2flax.run(text, None, {"data": x}, blobs=["a", "b", "s"])
    expected = np.maximum(3 * (found["a"] + found["b"]) + 1, 0)
    np.testing.assert_allclose(found["s"], expected, rtol=1e-5)
    once = caffe2flax.run(text, None, {"data": x})
    np.testing.assert_allclose(once["s"], expected, rtol=1e-5, atol=1e-5)
