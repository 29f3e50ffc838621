"""`compile`: the same numbers, with kernels prepared and batches split where that is
faster and safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import caffe2flax
from caffe2flax.api import read_graph
from caffe2flax.layers._prepared import tile_for
from caffe2flax.layers.convolution import Convolution
from caffe2flax.ops.compiled import Compiled, two_by_two
from caffe2flax.ops.conv import Conv
from caffe2flax.ops.prepared import convs, fitting_tiles, with_tiled_kernels
from caffe2flax.ops.winograd import tile_size
from tests.golden import distance
from tests.smallnets import here, net, numbers

CLOSE = 1e-5


def conv(name: str, bottom: str, outputs: int, more: str = "") -> str:
    filler = 'weight_filler { type: "msra" } bias_filler { type: "constant" value: 1 }'
    given = f"num_output: {outputs} kernel_size: 3 pad: 1 {filler}"
    return (
        f'name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {more} '
        f"convolution_param {{ {given} }}"
    )


TEXT = net(
    conv("a", "x", 64),
    'name: "r" type: "ReLU" bottom: "a" top: "a"',
    conv("b", "a", 64),
    conv("c", "b", 72),
    x=(1, 3, 57, 53),
)
SHARED = net(
    conv("a", "x", 64, 'param { name: "w" }'),
    conv("b", "a", 64, 'param { name: "w" }'),
    conv("c", "b", 64),
    x=(1, 64, 57, 53),
)


def numbers_of(run: Any, x: Any) -> list[int]:
    """How many numbers each array has that `run` hands to its program."""
    (arrays,) = run.program(x).args
    return sorted(array.size for array in arrays)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_two_by_two(count: int) -> None:
    x, y = jnp.asarray(numbers(count, 3)), jnp.asarray(numbers(count, 3, 2))
    made = two_by_two(lambda a, b: {"a": a * 2, "b": b.sum(-1) + a}, x, y)
    np.testing.assert_array_equal(made["a"], x * 2)
    np.testing.assert_allclose(made["b"], y.sum(-1) + x, rtol=1e-6)


def test_any_batch() -> None:
    """In pairs where nothing but that is known to be safe."""
    filters = "convolution_param { num_output: 8 kernel_size: 3 }"
    layer = f'type: "Convolution" bottom: "x" top: "c" name: "c" {filters}'
    model = caffe2flax.load(net(layer, x=(1, 3, 66, 66)))
    run = model.compile()
    for count in (1, 2, 130, 131):
        x = jnp.asarray(numbers(count, 66, 66, 3))
        assert distance(np.asarray(run(x)), np.asarray(model(x))) < CLOSE
    many = jnp.zeros((130, 66, 66, 3))

    def program(run: Any, x: Any) -> str:
        made = run.program(x)
        return str(made.func.lower(*made.args, x).as_text())

    assert "while" in program(run, many)
    assert "while" not in program(run, many[:2])
    assert "while" not in program(Compiled(model), many)


@here
@pytest.mark.parametrize("text", [TEXT, SHARED])
def test_kernels_are_prepared(text: str) -> None:
    """Once, for every batch and size that they suit, and no others."""
    model = caffe2flax.load(text)
    run = model.compile()
    height, width, channels = 57, 53, 3 if text is TEXT else 64
    x = jnp.asarray(numbers(1, height, width, channels))
    assert distance(np.asarray(run(x)), np.asarray(model(x))) < CLOSE
    prepared = dict(run.prepared)
    assert [tile for _, tile in prepared] == [6, 6]
    before = numbers_of(Compiled(model), x)
    tiled = [made.size for made in prepared.values()]
    assert numbers_of(run, x) == sorted(before + tiled)
    for count, rows in ((3, height), (2, 70), (1, 20)):
        x = jnp.asarray(numbers(count, rows, width, channels, seed=rows))
        assert distance(np.asarray(run(x)), np.asarray(model(x))) < CLOSE
    assert numbers_of(run, x) == before
    assert run.prepared.keys() == prepared.keys()
    assert all(run.prepared[key] is prepared[key] for key in prepared)


@here
def test_weights_are_bound() -> None:
    model = caffe2flax.load(TEXT)
    x = jnp.asarray(numbers(1, 57, 53, 3))
    run, true = model.compile(), np.asarray(model(x))
    model.b.kernel[...] = model.b.kernel[...] * 2
    assert distance(np.asarray(run(x)), true) < CLOSE
    assert model.b.tiled is None
    again = np.asarray(model.compile()(x))
    assert distance(again, np.asarray(model(x))) < CLOSE
    assert distance(again, true) > 0.1


def test_inside_of_other_transformations() -> None:
    """A function that is traced takes the weights as they are."""
    model = caffe2flax.load(TEXT)
    run = model.compile()
    x = jnp.asarray(numbers(2, 57, 53, 3))
    true = np.asarray(model(x))
    assert distance(np.asarray(jax.jit(run)(x)), true) < CLOSE
    mapped = jax.vmap(run)(x[:, None])
    assert distance(np.asarray(mapped)[:, 0], true) < CLOSE
    ours = jax.grad(lambda x: (run(x) ** 2).sum())(x)
    theirs = jax.grad(lambda x: (model(x) ** 2).sum())(x)
    assert distance(np.asarray(ours), np.asarray(theirs)) < CLOSE
    assert not run.prepared


def test_the_persistent_cache_keeps_no_such_program(tmp_path: Path) -> None:
    model = caffe2flax.load(TEXT)
    x = jnp.asarray(numbers(1, 57, 53, 3))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert with_tiled_kernels(model, {}, x) is model
    finally:
        jax.config.update("jax_compilation_cache_dir", None)


class Edited(nnx.Module):
    """What users may make of a module: a Conv that is called twice, one that stands
    twice, and one whose kernel is changed for a call."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.twice = Conv(64, 64, (3, 3), rngs=rngs)
        self.parts = nnx.List([Conv(64, 64, (3, 3), rngs=rngs)])
        self.changed = Conv(64, 64, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.twice(self.parts[0](x))
        twin = nnx.merge(*nnx.split(self.changed))
        twin.kernel = nnx.Param(self.changed.kernel[...] * 2)
        return self.twice(twin(y)[:, :30])


@here
def test_edited_modules() -> None:
    model = Edited()
    x = jnp.asarray(numbers(1, 57, 53, 64))
    places = [part is model.parts[0] for part in convs(model)]
    tiles = fitting_tiles(model, x)
    assert tiles == {n: 6 if place else 0 for n, place in enumerate(places)}
    run = Compiled(model, prepare=with_tiled_kernels)
    assert distance(np.asarray(run(x)), np.asarray(model(x))) < CLOSE
    assert len(run.prepared) == 1


@settings(deadline=None)
@given(
    st.integers(5, 260),
    st.integers(5, 260),
    st.sampled_from((3, 63, 64, 96, 128, 256, 500, 512)),
    st.sampled_from((16, 64, 72, 128, 256, 512)),
    st.integers(0, 2),
)
def test_convert_and_compile_choose_alike(
    height: int, width: int, channels: int, out: int, pad: int
) -> None:
    """The rule stands twice, as neither side may import the other."""
    text = net(
        f'name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param '
        f"{{ num_output: {out} kernel_size: 3 pad: {pad} }}",
        x=(1, channels, height, width),
    )
    (node,) = read_graph(text).nodes
    shape = (1, channels, height, width)
    assert isinstance(node.layer, Convolution)
    tile = tile_for(node.layer, shape)
    x = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, out), jnp.float32)
    ours = tile_size(x, kernel, ((pad, pad),) * 2, prepared=True)
    prepares = node.layer.has_kernels_to_tile(shape)
    assert ours == (tile if prepares else 0)
    assert prepares <= (tile > 0)
