"""Generated modules are plain Flax: short, of public names, for every platform, and
clear about what they take."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

import caffe2flax
from caffe2flax.conversion import read_graph
from tests import architectures
from tests.golden import FIXTURES
from tests.smallnets import net, numbers, save, single

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "networks"
NETWORKS: dict[str, str] = {
    path.stem: path.read_text()
    for folder in (FIXTURES / "networks", BENCHMARKS)
    for path in sorted(folder.glob("*.prototxt"))
}
NETWORKS["vgg19"] = architectures.vgg(19)
NETWORKS["resnet152"] = architectures.resnet(152)

LINES = {"alexnet": 125, "googlenet": 180, "resnet50": 186}
"""How long a file may be."""
OUTSIDE = 45
"""Lines of a file that are neither import, blank, comment or docstring, nor part of a
class."""
PRIVATE = re.compile(
    r"\b(onednn|winograd|ffi|platform_dependent|Primitive|_src)\b", re.I
)
PLATFORMS = ("cpu", "cuda", "tpu")


def module(source: str) -> ModuleType:
    """Our own generated source, run."""
    made = ModuleType("net")
    made.__file__ = "net.py"
    exec(compile(source, "net.py", "exec"), made.__dict__)
    return made


def abstract(text: str, **options: Any) -> nnx.Module:
    """The module of a net in eval mode, of which only shapes are there."""
    conversion = caffe2flax.convert(text)
    cls = getattr(module(conversion.source), conversion.name)
    model: nnx.Module = nnx.eval_shape(lambda: cls(**options, rngs=nnx.Rngs(0)))
    model.eval()
    return model


def outside(source: str) -> list[str]:
    """The lines that OUTSIDE counts."""
    tree = ast.parse(source)
    left: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.Import | ast.ImportFrom):
            left.update(range(node.lineno, (node.end_lineno or 0) + 1))
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            left.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    code = (line.strip() for number, line in lines if number not in left)
    return [line for line in code if line and not line.startswith("#")]


@pytest.mark.parametrize("name", NETWORKS)
def test_short_and_of_public_names(name: str) -> None:
    source = caffe2flax.convert(NETWORKS[name]).source
    assert len(source.splitlines()) <= LINES.get(name, 200)
    assert len(outside(source)) <= OUTSIDE
    assert not PRIVATE.findall(source)
    attributes = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)
    ]
    assert not [n.attr for n in attributes if re.match(r"_[a-z]", n.attr)]


def primitives(jaxpr: Jaxpr) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn.primitive
        for value in eqn.params.values():
            if isinstance(value, ClosedJaxpr):
                yield from primitives(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from primitives(value)


@pytest.mark.parametrize("name", NETWORKS)
def test_for_every_platform(name: str) -> None:
    """JAX's own primitives alone, lowered with a free batch."""
    model = abstract(NETWORKS[name])
    definition, state = nnx.split(model)
    graph = read_graph(NETWORKS[name])
    (data,) = graph.arguments
    _, *sizes = graph.operand(data).emitted
    (batch,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((batch, *sizes), jnp.float32)

    def call(state: Any, x: jax.Array) -> jax.Array:
        y: jax.Array = nnx.merge(definition, state)(x)
        return y

    closed = jax.make_jaxpr(call)(state, jax.ShapeDtypeStruct((2, *sizes), jnp.float32))
    found = {primitive.name for primitive in primitives(closed.jaxpr)}
    known = {
        name
        for part in (jax.lax, jax.extend.core.primitives)
        for name in (n.removesuffix("_p") for n in dir(part))
    }
    assert found <= known | OTHERS, found - known
    exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(state, spec)
    (output,) = exported.out_avals
    assert output.shape[0] == batch


OTHERS = {"pjit", "jit", "custom_jvp_call"}
"""Primitives that JAX lists elsewhere, or under another name."""


@pytest.fixture(scope="module")
def lenet() -> Any:
    return caffe2flax.load(NETWORKS["lenet"])


def test_logits_enter_the_softmax(lenet: Any) -> None:
    x = jnp.asarray(numbers(2, 28, 28, 1))
    np.testing.assert_array_equal(lenet(x), nnx.softmax(lenet.logits(x)))


SIGMOID = 'name: "s" type: "Sigmoid" bottom: "y" top: "y"'
PRODUCT = single("InnerProduct", "inner_product_param { num_output: 3 }")


@pytest.mark.parametrize(
    ("layers", "there"),
    [
        ([PRODUCT, SIGMOID], True),
        ([PRODUCT, 'name: "p" type: "Softmax" bottom: "y" top: "p"'], True),
        ([PRODUCT], False),
        ([SIGMOID.replace('bottom: "y"', 'bottom: "x"')], False),
        ([PRODUCT, SIGMOID, 'name: "r" type: "ReLU" bottom: "y" top: "y"'], False),
    ],
)
def test_logits_where_a_net_ends_in_probabilities(
    layers: list[str], there: bool
) -> None:
    text = net(*layers, x=(1, 4))
    source = caffe2flax.convert(text).source
    assert ("def logits" in source) == there
    model: Any = caffe2flax.load(text)
    x = jnp.asarray(numbers(2, 4))
    assert model(x).shape[0] == 2
    if there:
        last = nnx.sigmoid if "Sigmoid" in text else nnx.softmax
        np.testing.assert_array_equal(model(x), last(model.logits(x)))


def test_no_logits_with_taps_or_other_outputs() -> None:
    two = net(
        PRODUCT,
        'name: "p" type: "Softmax" bottom: "y" top: "p"',
        'name: "t" type: "TanH" bottom: "y" top: "t"',
        x=(1, 4),
    )
    assert "def logits" not in caffe2flax.convert(two).source
    one = net(PRODUCT, SIGMOID, x=(1, 4))
    assert "def logits" not in caffe2flax.convert(one, taps=["y"]).source


def test_precision_reaches_convolutions_and_dense_layers() -> None:
    text = NETWORKS["alexnet"]
    model = abstract(text, precision="highest")
    definition, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32)
    closed = jax.make_jaxpr(lambda state, x: nnx.merge(definition, state)(x))(state, x)
    text = str(closed)
    assert text.count("HIGHEST") >= 8
    assert "precision=None" not in text


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 28, 28, 3), "(N, 28, 28, 1), not (1, 28, 28, 3)"),
        ((1, 1, 28, 28), "not (1, 1, 28, 28); is this N, C, H, W, not N, H, W, C?"),
        ((28, 28, 1), "not (28, 28, 1); is the batch axis missing?"),
        ((1, 32, 32, 1), "(N, 28, 28, 1), not (1, 32, 32, 1)"),
        ((1, 784), "(N, 28, 28, 1), not (1, 784)"),
        ((), "(N, 28, 28, 1), not ()"),
    ],
)
@pytest.mark.parametrize("way", ["plain", "jit", "vmap", "grad", "logits"])
def test_a_wrong_shape_is_refused_at_the_door(
    lenet: Any, shape: tuple[int, ...], said: str, way: str
) -> None:
    ways = {
        "plain": lenet,
        "jit": jax.jit(lambda x: lenet(x)),
        "vmap": lambda x: jax.vmap(lenet)(x[None]),
        "grad": jax.grad(lambda x: lenet(x).sum()),
        "logits": lenet.logits,
    }
    with pytest.raises(ValueError, match=re.escape(said)):
        ways[way](jnp.zeros(shape))


def test_sizes_are_free_where_no_layer_fixes_them() -> None:
    conv = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"
    whole = "pooling_param { pool: AVE global_pooling: true }"
    pooled = single("Pooling", whole).replace('bottom: "x"', 'bottom: "c"')
    text = net(
        single("Convolution", conv, top="c"),
        pooled.replace('name: "l"', 'name: "g"'),
        PRODUCT.replace('bottom: "x"', 'bottom: "y"')
        .replace('top: "y"', 'top: "z"')
        .replace('name: "l"', 'name: "z"'),
        x=(1, 3, 8, 9),
    )
    assert 'check_shape("x", x, "N", "H", "W", 3)' in caffe2flax.convert(text).source
    model: Any = caffe2flax.load(text)
    assert model(jnp.zeros((0, 17, 5, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match=re.escape("(N, H, W, 3), not (1, 3, 8, 9)")):
        model(jnp.zeros((1, 3, 8, 9)))


def test_each_input_is_named() -> None:
    text = net(
        'name: "e" type: "Eltwise" bottom: "a b" bottom: "c" top: "y"',
        **{"a b": (1, 3, 4, 4), "c": (1, 3, 4, 4)},
    )
    model: Any = caffe2flax.load(text)
    a, c = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3, 1))
    with pytest.raises(ValueError, match="c must be"):
        model(a, c)


@pytest.mark.parametrize(
    ("layer", "free"),
    [
        ("Reshape reshape_param { shape { dim: 0 dim: 3 dim: -1 } }", True),
        ("Reshape reshape_param { shape { dim: 0 dim: 3 dim: 98 } }", False),
        ("Flatten flatten_param { axis: 1 end_axis: 2 }", False),
        ("SPP spp_param { pyramid_height: 2 }", False),
        ("Interp interp_param { zoom_factor: 2 }", False),
        ("TanH", True),
        ("Pooling pooling_param { kernel_size: 3 stride: 2 }", True),
    ],
)
def test_sizes_that_are_written_out_are_not_free(layer: str, free: bool) -> None:
    type_, _, parameters = layer.partition(" ")
    source = caffe2flax.convert(net(single(type_, parameters), x=(2, 6, 7, 7))).source
    (line,) = re.findall(r"check_shape\(.*\)$", source, re.M)[:1]
    assert line.startswith('check_shape("x", x, "N", ')
    assert ('"H", "W"' in line) == free


def test_sequences_of_any_length_and_number() -> None:
    text = (FIXTURES / "layers" / "lstm_basic.prototxt").read_text()
    model: Any = caffe2flax.load(text)
    assert model(jnp.zeros((6, 4, 3)), jnp.zeros((6, 4))).shape[:2] == (6, 4)
    with pytest.raises(ValueError, match=re.escape("(N, *, 3), not (6, 4, 5)")):
        model(jnp.zeros((6, 4, 5)), jnp.zeros((6, 4)))


@pytest.mark.parametrize(
    "window", ["kernel_size: 28", "kernel_size: 9 pad: 2 stride: 5"]
)
def test_means_of_large_windows_in_bfloat16(window: str) -> None:
    """The sum is not lost in the eight bits of its terms."""
    text = net(
        single("Pooling", f"pooling_param {{ pool: AVE {window} }}"), x=(1, 4, 28, 28)
    )
    model: Any = caffe2flax.load(text)
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 2, (1, 28, 28, 4)), "float32")
    half, full = model(x.astype(jnp.bfloat16)), model(x)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=0.01)


def test_gradients_stop_in_front_of_the_last_layer() -> None:
    """propagate_down: false of a Softmax."""
    last = 'name: "p" type: "Softmax" bottom: "y" top: "p" propagate_down: false'
    text = net(PRODUCT, last, x=(1, 4))
    model: Any = abstract_train(text)
    assert not np.any(jax.grad(lambda x: model(x)[0, 0])(jnp.asarray(numbers(1, 4))))


def abstract_train(text: str) -> Any:
    conversion = caffe2flax.convert(text, phase="TRAIN")
    return getattr(module(conversion.source), conversion.name)(rngs=nnx.Rngs(0))


@pytest.mark.parametrize("names", [("conv", "linear"), ("num_classes", "linear")])
def test_names_of_dropouts_meet_nothing_else(names: tuple[str, str]) -> None:
    layers = [
        single("InnerProduct", "inner_product_param { num_output: 5 }", top="a"),
        f'name: "{names[0]}" type: "Dropout" bottom: "a" top: "a" '
        "dropout_param { dropout_ratio: 0.3 }",
        'name: "m" type: "InnerProduct" bottom: "a" top: "b" '
        "inner_product_param { num_output: 4 }",
        f'name: "{names[1]}" type: "Dropout" bottom: "b" top: "b" '
        "dropout_param { dropout_ratio: 0.6 }",
        'name: "z" type: "InnerProduct" bottom: "b" top: "c" '
        "inner_product_param { num_output: 3 }",
    ]
    model = abstract_train(net(*layers, x=(1, 4)))
    model.train()
    assert model(jnp.ones((2, 4)), rngs=nnx.Rngs(0)).shape == (2, 3)


def test_dropout_draws_in_training_alone_and_needs_rngs() -> None:
    drop = 'name: "d" type: "Dropout" bottom: "y" top: "d"'
    conversion = caffe2flax.convert(net(PRODUCT, drop, x=(1, 4)))
    model = getattr(module(conversion.source), conversion.name)(rngs=nnx.Rngs(0))
    x = jnp.ones((2, 4))
    model.eval()
    assert np.array_equal(model(x), model(x, rngs=nnx.Rngs(0)))
    model.train()
    with pytest.raises(ValueError, match="no `rngs`"):
        model(x)
    assert not np.array_equal(model(x, rngs=nnx.Rngs(0)), model(x, rngs=nnx.Rngs(1)))


def test_a_head_of_other_features_is_no_fresh_one(tmp_path: Path) -> None:
    text = net(PRODUCT, 'name: "p" type: "Softmax" bottom: "y" top: "p"', x=(1, 4))
    weights = save(tmp_path / "w.caffemodel", {"l": [numbers(3, 4), numbers(3)]})
    path, file = caffe2flax.convert(text, weights, name="Own").write(tmp_path)
    cls = module(path.read_text()).Own
    assert cls.from_pretrained(file, num_classes=7).l_.kernel.shape == (4, 7)
    other = caffe2flax.convert(text.replace("dim: 4", "dim: 9"), name="Other")
    with pytest.raises(ValueError, match=r"l_\.kernel is \(4, 3\) in the file"):
        module(other.source).Other.from_pretrained(file, num_classes=3)
