"""InnerProduct and Embed in every axis, order and size that Caffe takes."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.runner import instantiate
from tests.golden import distance
from tests.smallnets import expected, net, numbers, save


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 3, 4, 5), 0),
        ((2, 3, 4, 5), 1),
        ((2, 3, 4, 5), 2),
        ((2, 3, 4, 5), 3),
        ((2, 3, 4, 5), -2),
        ((2, 3, 4, 5), -4),
        ((2, 3, 2, 2, 2), 2),
        ((2, 3, 2, 2, 2), -1),
        ((7,), 0),
        ((7,), -1),
    ],
)
def test_inner_product_from_any_axis(
    shape: tuple[int, ...], axis: int, transpose: bool, tmp_path: Path
) -> None:
    x = numbers(*shape)
    start = axis % len(shape)
    flat = x.reshape(*shape[:start], -1)
    kernel, bias = numbers(flat.shape[-1], 3, seed=1), numbers(3, seed=2)
    text = net(
        f"""name: "l" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{
            num_output: 3 axis: {axis} transpose: {str(transpose).lower()} }}""",
        x=shape,
    )
    blobs = [kernel if transpose else kernel.T, bias]
    weights = save(tmp_path / "w.caffemodel", {"l": blobs})
    wanted = flat.astype(np.float64) @ kernel + bias
    assert distance(caffe2flax.run(text, weights, {"x": x})["y"], wanted) <= 1e-5
    assert distance(expected(text, weights, {"x": x})["y"], wanted) <= 1e-6


@pytest.mark.parametrize(
    ("axis", "dims"), [(1, ()), (2, ()), (1, (24, 3)), (-1, (6, 12))]
)
def test_inner_product_behind_channels_last(
    axis: int, dims: tuple[int, ...], tmp_path: Path
) -> None:
    """Its rows follow the order in which a convolution's output is stored."""
    layers = [
        """name: "c" type: "Convolution" bottom: "x" top: "c"
           convolution_param { num_output: 6 kernel_size: 2 bias_term: false }"""
    ]
    if dims:
        shape = " ".join(f"dim: {extent}" for extent in (0, *dims))
        layers.append(
            f"""name: "r" type: "Reshape" bottom: "c" top: "r"
                reshape_param {{ shape {{ {shape} }} }}"""
        )
    layers.append(
        f"""name: "l" type: "InnerProduct" bottom: "{"r" if dims else "c"}" top: "y"
            inner_product_param {{ num_output: 4 axis: {axis} bias_term: false }}"""
    )
    text = net(*layers, x=(2, 3, 4, 5))
    shape = dims or (6, 3, 4)
    count = int(np.prod(shape[axis - 1 :] if axis > 0 else shape[axis:]))
    blobs = {"c": [numbers(6, 3, 2, 2)], "l": [numbers(4, count, seed=1)]}
    weights, x = save(tmp_path / "w.caffemodel", blobs), numbers(2, 3, 4, 5, seed=2)
    y = caffe2flax.run(text, weights, {"x": x})["y"]
    assert distance(y, expected(text, weights, {"x": x})["y"]) <= 1e-5


EMBED = 'name: "l" type: "Embed" bottom: "x" top: "y" embed_param'


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(), (6,), (3, 2), (1, 2, 3, 1)])
def test_embed(shape: tuple[int, ...], bias: bool, tmp_path: Path) -> None:
    """Values and gradients; a fraction is cut off, as C does."""
    text = net(
        f"{EMBED} {{ num_output: 4 input_dim: 5 bias_term: {str(bias).lower()} }}",
        x=shape,
    )
    table, offset = numbers(5, 4), numbers(4, seed=1)
    blobs = [table, offset] if bias else [table]
    weights = save(tmp_path / "w.caffemodel", {"l": blobs})
    rows = np.random.default_rng(0).integers(0, 5, shape)
    x = (rows + 0.5).astype(np.float32)
    wanted = table[rows] + offset * bias
    assert distance(caffe2flax.run(text, weights, {"x": x})["y"], wanted) <= 1e-6
    assert distance(expected(text, weights, {"x": x})["y"], wanted) <= 1e-6

    conversion = caffe2flax.convert(text, weights)
    above = numbers(*wanted.shape, seed=2)
    (bottom,), (top,) = conversion.graph.arguments, conversion.graph.outputs
    layouts = conversion.graph.layouts
    array = jnp.asarray(x.transpose(layouts[bottom].axes))
    seed = above.transpose(layouts[top].axes)
    model = instantiate(conversion)
    gradient = nnx.grad(lambda model: (model(array) * seed).sum())(model)
    of_table = np.zeros_like(table)
    np.add.at(of_table, rows, above)
    assert distance(np.asarray(gradient["l_"]["embedding"][...]), of_table) <= 1e-5
    if bias:
        of_bias = above.reshape(-1, 4).sum(0)
        assert distance(np.asarray(gradient["l_"]["bias"][...]), of_bias) <= 1e-5


def test_embed_starts_from_its_fillers() -> None:
    fillers = """weight_filler { type: "constant" value: 2 }
                 bias_filler { type: "constant" value: -0.5 }"""
    text = net(f"{EMBED} {{ num_output: 3 input_dim: 4 {fillers} }}", x=(2,))
    y = caffe2flax.load(text)(jnp.zeros(2))
    assert np.array_equal(y, np.full((2, 3), 1.5, np.float32))
    text = net(f"{EMBED} {{ num_output: 3 input_dim: 4 bias_term: false }}", x=(2,))
    assert not caffe2flax.load(text)(jnp.zeros(2)).any()


def test_embed_in_bfloat16_and_mapped(tmp_path: Path) -> None:
    text = net(f"{EMBED} {{ num_output: 4 input_dim: 5 }}", x=(6,))
    weights = {"l": [numbers(5, 4), numbers(4, seed=1)]}
    model = caffe2flax.load(text, save(tmp_path / "w.caffemodel", weights))
    x = jnp.asarray([[0.0, 1, 2, 3, 4, 0]] * 3)
    assert jax.vmap(model)(x).shape == (3, 6, 4)
    model.l_.dtype = jnp.bfloat16
    assert model(x[0]).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{ num_output: 3 }", "needs input_dim"),
        ("{ input_dim: 3 }", "needs num_output"),
        ("{ num_output: 0 input_dim: 3 }", "num_output must be positive"),
        ("{ num_output: 3 input_dim: 0 }", "input_dim must be positive"),
    ],
)
def test_embed_refusals(parameters: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net(f"{EMBED} {parameters}", x=(2,)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{ bias_term: true }", "needs num_output"),
        ("{ num_output: 0 }", "num_output must be positive"),
        ("{ num_output: 2 axis: 2 }", "axis 2 is out of range"),
        ("{ num_output: 2 axis: -3 }", "axis -3 is out of range"),
    ],
)
def test_inner_product_refusals(parameters: str, message: str) -> None:
    layer = 'name: "l" type: "InnerProduct" bottom: "x" top: "y" inner_product_param'
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net(f"{layer} {parameters}", x=(2, 3)))
