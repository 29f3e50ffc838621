"""Deconvolution as the adjoint of Convolution, Im2col, and what both refuse."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.ir.filler import Filler
from caffe2flax.ops.deconvolution import grouped_transpose_init
from caffe2flax.runner import instantiate
from caffe2flax.verification.reference import evaluate
from tests.smallnets import net, numbers, run, save, single

SETTINGS = {
    "1d": ((2, 4, 5), 6, 1, "kernel_size: 3 stride: 2 pad: 1"),
    "1d group": ((2, 4, 5), 6, 2, "kernel_size: 4 stride: 3 pad: 1"),
    "3d group": ((1, 4, 2, 3, 2), 2, 2, "kernel_size: 3 stride: 2 pad: 1 dilation: 2"),
    "depthwise bilinear": ((2, 3, 4, 5), 3, 3, "kernel_size: 4 stride: 2 pad: 1"),
    "depthwise, two each": ((1, 3, 4, 3), 6, 3, "kernel_size: 5 stride: 2 pad: 2"),
    "depthwise, dilated": ((1, 3, 4, 3), 3, 3, "kernel_size: 3 stride: 2 dilation: 3"),
    "group, stride 1": ((1, 4, 5, 4), 6, 2, "kernel_size: 3 pad: 1"),
    "group, holes": ((1, 4, 3, 3), 4, 2, "kernel_size: 2 stride: 3"),
    "holes": ((1, 4, 3, 3), 4, 1, "kernel_size: 1 stride: 3"),
    "sides": (
        (2, 4, 3, 5),
        6,
        2,
        "kernel_h: 4 kernel_w: 3 stride_h: 3 stride_w: 1 pad_h: 1 pad_w: 0",
    ),
    "pad beyond": ((1, 2, 5, 5), 2, 1, "kernel_size: 2 stride: 2 pad: 3"),
    "pad beyond, group": ((1, 2, 5, 5), 2, 2, "kernel_size: 2 stride: 2 pad: 3"),
    "no batch axis": ((4, 3, 3), 2, 2, "axis: 0 kernel_size: 3 stride: 2"),
    "two batch axes": ((2, 3, 4, 3, 3), 2, 2, "axis: 2 kernel_size: 3 stride: 2"),
    "negative axis": ((2, 4, 3, 3), 2, 1, "axis: -3 kernel_size: 2 stride: 2"),
    "no spatial axes": ((3, 4), 6, 2, "kernel_size: 1"),
    "no spatial axes, one group": ((3, 4), 6, 1, "kernel_size: 1"),
}


def channel_axis(parameters: str) -> int:
    return {"axis: 0": 0, "axis: 2": 2}.get(parameters[:7], 1)


@pytest.mark.parametrize(
    ("shape", "outputs", "group", "parameters"), SETTINGS.values(), ids=SETTINGS.keys()
)
def test_adjoint(
    shape: tuple[int, ...], outputs: int, group: int, parameters: str, tmp_path: Path
) -> None:
    """<deconvolution(x), y> = <x, convolution(y)> with one weight."""
    axis = channel_axis(parameters)
    common = f"{parameters} group: {group} bias_term: false"
    up = f"convolution_param {{ num_output: {outputs} {common} }}"
    down = f"convolution_param {{ num_output: {shape[axis]} {common} }}"
    text = net(single("Deconvolution", up), x=shape)
    graph = caffe2flax.convert(text).graph
    weight = numbers(*graph.layer_weights["l"][0].shape)
    path = save(tmp_path / "w.caffemodel", {"l": [weight]})
    x = numbers(*shape, seed=1)
    y = run(text, path, x=x)
    other = numbers(*y.shape, seed=2)
    back = run(net(single("Convolution", down), x=y.shape), path, x=other)
    sizes = tuple(map(slice, x.shape))
    assert np.vdot(y, other) == pytest.approx(np.vdot(x, back[sizes]), rel=1e-4)


@pytest.mark.parametrize("group", [1, 2])
def test_bias_and_gradients(group: int, tmp_path: Path) -> None:
    """The gradient of the module is that of the float64 reference, by differences."""
    parameters = f"num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: {group}"
    text = net(
        single("Deconvolution", f"convolution_param {{ {parameters} }}"),
        x=(1, 4, 3, 2),
    )
    weights = [numbers(4, 4 // group, 3, 3), numbers(4, seed=1)]
    conversion = caffe2flax.convert(
        text, save(tmp_path / "w.caffemodel", {"l": weights})
    )
    x = numbers(1, 4, 3, 2, seed=2)
    top = run(text, tmp_path / "w.caffemodel", x=x)
    seed = numbers(*top.shape, seed=3)

    model = instantiate(conversion)
    value = jnp.asarray(x.transpose(0, 2, 3, 1))

    def weighted(x: jax.Array) -> jax.Array:
        return jnp.sum(model(x) * seed.transpose(0, 2, 3, 1))

    ours = np.asarray(jax.grad(weighted)(value)).transpose(0, 3, 1, 2)
    step = numbers(*x.shape, seed=4).astype(np.float64)
    (told,) = conversion.graph.outputs
    pushed = evaluate(conversion.graph, conversion.blobs, {"x": x + step})[told]
    held = evaluate(conversion.graph, conversion.blobs, {"x": x})[told]
    change = np.vdot(pushed - held, seed)  # linear: exact for any step
    assert np.vdot(ours, step) == pytest.approx(change, rel=1e-4)


@pytest.mark.parametrize("type_", ["bilinear", "positive_unitball", "xavier"])
@pytest.mark.parametrize("group", [1, 3])
def test_fillers(type_: str, group: int) -> None:
    """A module without weights has the file's initial values."""
    text = net(
        single(
            "Deconvolution",
            "convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 "
            f'group: {group} weight_filler {{ type: "{type_}" }} }}',
        ),
        x=(1, 3, 4, 4),
    )
    conversion = caffe2flax.convert(text)
    kernel = np.asarray(instantiate(conversion).l_.kernel[...])
    shape = (3, 6 // group, 4, 4)
    blob = Filler(type_).sample(shape, np.random.default_rng(0))
    assert kernel.size == blob.size
    if type_ == "bilinear":
        np.testing.assert_allclose(kernel[:, :, 0, 0], blob[0, 0], atol=1e-6)
    if type_ == "positive_unitball" and group == 3:
        sums = kernel.reshape(16, 3, 2).sum((0, 2))
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    if type_ == "xavier":
        bound = np.sqrt(3 / Filler(type_).fan(shape))
        assert 0.8 * bound < np.abs(kernel).max() <= bound


def test_grouped_init_keeps_each_number() -> None:
    """The kernel of a convolution in groups is the one of the file, rearranged."""

    def counting(key: jax.Array, shape: tuple[int, ...], dtype: type) -> jax.Array:
        return jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)

    made = grouped_transpose_init(counting, 2)(jax.random.key(0), (3, 2, 6), np.float32)
    blob = (
        np.arange(36).reshape(3, 3, 4).transpose(2, 1, 0)
    )  # (in, out / group, window)
    for c in range(4):
        for o in range(3):
            kernel = np.asarray(made)[::-1, c % 2, c // 2 * 3 + o]
            np.testing.assert_array_equal(kernel, blob[c, o])


IM2COL = {
    "2d": ((2, 3, 5, 4), "kernel_size: 3 stride: 2 pad: 1"),
    "1d": ((2, 3, 5), "kernel_size: 2 dilation: 2"),
    "3d": ((1, 2, 3, 4, 3), "kernel_size: 2"),
    "no batch axis": ((3, 5, 4), "axis: 0 kernel_size: 2"),
    "two batch axes": ((2, 2, 3, 5, 4), "axis: -3 kernel_h: 2 kernel_w: 3 pad_w: 1"),
    "beyond": ((1, 2, 3, 3), "kernel_size: 4 stride: 2 force_nd_im2col: true"),
}


@pytest.mark.parametrize(("shape", "parameters"), IM2COL.values(), ids=IM2COL.keys())
def test_im2col(shape: tuple[int, ...], parameters: str, tmp_path: Path) -> None:
    """Weights times columns are a convolution."""
    x = numbers(*shape)
    text = net(single("Im2col", f"convolution_param {{ {parameters} }}"), x=shape)
    columns = run(text, x=x)
    convolution = f"convolution_param {{ num_output: 2 bias_term: false {parameters} }}"
    text = net(single("Convolution", convolution), x=shape)
    weight = numbers(
        *caffe2flax.convert(text).graph.layer_weights["l"][0].shape, seed=1
    )
    y = run(text, save(tmp_path / "w.caffemodel", {"l": [weight]}), x=x)
    axis = y.shape.index(2, len(shape) - weight.ndim + 1)
    product = np.tensordot(weight.reshape(2, -1), columns, (1, axis))
    np.testing.assert_allclose(np.moveaxis(product, 0, axis), y, atol=1e-4)


def test_pad_on_one_side_alone() -> None:
    """A convolution takes pad_h without pad_w; what it lacks is 0."""
    given = "num_output: 2 kernel_h: 3 kernel_w: 1 pad_h: 1"
    text = net(
        single("Convolution", f"convolution_param {{ {given} }}"), x=(1, 2, 4, 5)
    )
    (top,) = caffe2flax.convert(text).graph.outputs
    assert caffe2flax.convert(text).graph.shapes[top] == (1, 2, 4, 5)


REFUSED = {
    "no multiple": ("Deconvolution", "num_output: 3 kernel_size: 2 group: 2"),
    "channels": ("Deconvolution", "num_output: 9 kernel_size: 2 group: 3"),
    "nothing left": ("Deconvolution", "num_output: 2 kernel_size: 1 pad: 4"),
    "one side": ("Deconvolution", "num_output: 2 kernel_h: 2"),
    "both": ("Convolution", "num_output: 2 kernel_size: 2 pad: 1 pad_h: 1"),
    "stride alone": ("Convolution", "num_output: 2 kernel_size: 2 stride_w: 2"),
    "three kernels": ("Convolution", "num_output: 2" + " kernel_size: 2" * 3),
    "no kernel": ("Im2col", ""),
    "no outputs": ("Convolution", "kernel_size: 2"),
    "no spatial axes": ("Im2col", "axis: -1 kernel_size: 1"),
    "axis": ("Deconvolution", "num_output: 2 kernel_size: 1 axis: 4"),
    "zero": ("Convolution", "num_output: 2 kernel_size: 2 stride: 0"),
    "beyond": ("Convolution", "num_output: 2 kernel_size: 7 stride: 2"),
}


@pytest.mark.parametrize(("type_", "parameters"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(type_: str, parameters: str) -> None:
    """What Caffe's own checks, or its divisions by zero, abort on."""
    text = net(single(type_, f"convolution_param {{ {parameters} }}"), x=(1, 4, 4, 4))
    with pytest.raises(caffe2flax.ConversionError):
        caffe2flax.convert(text)


def test_emission() -> None:
    """One group is nnx.ConvTranspose, several an nnx.Conv over the dilated input."""
    shape = (1, 4, 4, 4)
    text = "convolution_param {{ num_output: 4 kernel_size: 4 stride: 2 pad: 1 {} }}"
    single_group = caffe2flax.convert(
        net(single("Deconvolution", text.format("")), x=shape)
    )
    assert "nnx.ConvTranspose" in single_group.source
    grouped = net(single("Deconvolution", text.format("group: 4")), x=shape)
    source = caffe2flax.convert(grouped).source
    assert "input_dilation=2" in source
    assert isinstance(instantiate(caffe2flax.convert(grouped)).l_, nnx.Conv)
