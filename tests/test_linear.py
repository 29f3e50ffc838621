"""Products with large matrices, in the orders in which they are read fast."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax

import caffe2flax
from caffe2flax.ops.linear import RowLinear, split_dot
from caffe2flax.ops.shape import join_channels
from tests.golden import distance
from tests.smallnets import expected, here, net, numbers, save

CLOSE = 1e-5
SHAPES = [(1, 256), (256,), (1, 1, 256), (3, 256), (2, 3, 256), (0, 256), (1, 67 * 3)]
PLATFORMS = ["cpu", "cuda", "tpu"]


def dot(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def split(x: Array, kernel: Array) -> Array:
    return split_dot(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=None)


def by_rows(kernel: Array, bias: Array | None) -> RowLinear:
    made = RowLinear(*kernel.shape, use_bias=bias is not None, rngs=nnx.Rngs(0))
    made.kernel[...] = kernel.T
    if made.bias is not None:
        made.bias[...] = bias
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_split_dot(shape: tuple[int, ...]) -> None:
    x = jnp.asarray(numbers(*shape))
    kernel = jnp.asarray(numbers(shape[-1], 9, seed=1))
    y = jax.jit(split)(x, kernel)
    true = dot(x, kernel)
    assert y.shape == true.shape
    if true.size:
        assert distance(np.asarray(y), np.asarray(true)) < CLOSE
    one, two = (
        jax.grad(lambda w, f=f: jnp.sum(f(x, w) ** 2))(kernel) for f in (split, dot)
    )
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_only_one_row_is_split() -> None:
    kernel = jnp.zeros((256, 9))
    for rows, divided in ((1, True), (2, False)):
        text = jax.jit(split).lower(jnp.zeros((rows, 256)), kernel).as_text()
        assert ("2x128x9" in text) == divided


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_row_linear(shape: tuple[int, ...], bias: bool) -> None:
    kernel = jnp.asarray(numbers(shape[-1], 9, seed=1))
    offset = jnp.asarray(numbers(9, seed=2)) if bias else None
    layer = by_rows(kernel, offset)
    x = jnp.asarray(numbers(*shape))
    y = nnx.jit(layer)(x)
    true = np.asarray(dot(x, kernel)) + (0 if offset is None else np.asarray(offset))
    assert y.shape == true.shape
    if true.size:
        assert distance(np.asarray(y), true) < CLOSE


@here
def test_several_rows_go_to_onednn() -> None:
    layer = by_rows(jnp.zeros((256, 9)), None)
    for rows, called in ((1, False), (2, True)):
        text = jax.jit(layer.__call__).lower(jnp.zeros((rows, 256))).as_text()
        assert ("__onednn$matmul" in text) == called


@pytest.mark.parametrize("rows", [1, 4])
def test_elsewhere(rows: int) -> None:
    """Other platforms, a batch of unknown size, and bfloat16."""
    kernel = jnp.asarray(numbers(256, 9, seed=1))
    layer = by_rows(kernel, None)
    x = jnp.asarray(numbers(rows, 256))
    for f in (layer.__call__, partial(split, kernel=kernel)):
        jax.export.export(jax.jit(f), platforms=PLATFORMS)(x)
        (batch,) = jax.export.symbolic_shape("b")
        unknown = jax.ShapeDtypeStruct((batch, 256), x.dtype)
        y = jax.export.export(jax.jit(f))(unknown).call(x)
        assert distance(np.asarray(y), np.asarray(dot(x, kernel))) < CLOSE
    layer.dtype = jnp.bfloat16
    half = layer(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    true = np.asarray(dot(x, kernel))
    assert distance(np.asarray(half, np.float32), true) < 0.03


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 4), (6,)])
def test_join_channels(shape: tuple[int, ...]) -> None:
    one, two = jnp.asarray(numbers(*shape)), jnp.asarray(numbers(*shape, seed=1))
    joined = jax.jit(join_channels)(one, two)
    np.testing.assert_array_equal(joined, jnp.concatenate([one, two], axis=-1))


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_networks(transpose: bool, axis: int, batch: int, tmp_path: Path) -> None:
    """A matrix that is large, behind a blob of channels: both forms are Caffe's."""
    count = 16 * 9 * 12 if axis == 1 else 9 * 12
    width = 2**19 // count + 1
    flag = str(transpose).lower()
    text = net(
        'name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { '
        f"num_output: {width} axis: {axis} transpose: {flag} }}",
        x=(batch, 16, 9, 12),
    )
    shape = (count, width) if transpose else (width, count)
    blobs = {"f": [numbers(*shape, seed=1) / 30, numbers(width, seed=2)]}
    weights = save(tmp_path / "n.caffemodel", blobs)
    inputs = {"x": numbers(batch, 16, 9, 12)}
    true = expected(text, weights, inputs)["f"]
    for optimize, made in ((False, "dot_general=split_dot"), (True, "RowLinear(")):
        conversion = caffe2flax.convert(text, weights, optimize=optimize)
        assert made in conversion.source
        y = caffe2flax.run(text, weights, inputs, optimize=optimize)["f"]
        assert distance(y, true) < CLOSE


def test_weights_of_fillers() -> None:
    """Without a file both forms have the weights that the prototxt asks for."""
    text = net(
        'name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { '
        'num_output: 900 weight_filler { type: "constant" value: 0.01 } '
        'bias_filler { type: "constant" value: 0.1 } }',
        x=(2, 1031, 1, 1),
    )
    x = numbers(2, 1031, 1, 1)
    true = np.repeat(x.reshape(2, -1).sum(1, keepdims=True) * 0.01 + 0.1, 900, 1)
    for optimize in (False, True):
        y = caffe2flax.run(text, None, {"x": x}, optimize=optimize)["f"]
        assert distance(y, true) < CLOSE


@pytest.mark.parametrize(
    ("axis", "bottoms", "joined"),
    [(1, 2, True), (-3, 2, True), (1, 3, False), (0, 2, False), (3, 2, False)],
)
def test_concat(axis: int, bottoms: int, joined: bool) -> None:
    """Two blobs' channels are joined; all else is concatenated."""
    names = [f"p{i}" for i in range(bottoms)]
    layers = [
        f'name: "{n}" type: "Power" bottom: "x" top: "{n}" power_param {{ shift: {i} }}'
        for i, n in enumerate(names)
    ]
    concat = 'name: "c" type: "Concat" top: "c" ' + " ".join(
        f'bottom: "{n}"' for n in names
    )
    layers.append(f"{concat} concat_param {{ axis: {axis} }}")
    text = net(*layers, x=(2, 6, 5, 4))
    x = numbers(2, 6, 5, 4)
    assert ("join_channels(p0" in caffe2flax.convert(text).source) == joined
    true = np.concatenate([x + i for i in range(bottoms)], axis)
    assert distance(caffe2flax.run(text, None, {"x": x})["c"], true) < CLOSE
