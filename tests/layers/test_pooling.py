"""Pooling beyond the recorded cases: masks, equals, empty windows, pyramids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.ops.pooling import max_pool_with_mask
from caffe2flax.runner import execute, instantiate
from tests.smallnets import expected, net, numbers, run, single

LOWEST = np.finfo(np.float32).min


def pool(parameters: str, shape: tuple[int, ...], *tops: str) -> str:
    more = "".join(f'top: "{top}" ' for top in tops)
    return net(single("Pooling", f"{more} pooling_param {{ {parameters} }}"), x=shape)


SETTINGS = {
    "sides": "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1",
    "empty last window": "kernel_size: 1 stride: 4",
    "empty last windows": "kernel_h: 1 kernel_w: 2 stride_h: 4 stride_w: 3",
    "kernel beyond": "kernel_size: 8 stride: 4",
    "pad": "kernel_size: 3 stride: 2 pad: 2",
    "pad on one axis": "kernel_size: 3 stride: 3 pad_h: 1 pad_w: 0",
    "large": "kernel_size: 9 pad: 4",
    "floor": "kernel_size: 2 stride: 2 round_mode: FLOOR",
    "floor by number": "kernel_size: 2 stride: 2 round_mode: 1",
    "everywhere": "global_pooling: true",
    "everywhere, stride 1": "global_pooling: true stride: 1 pad: 0",
}


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS.keys())
def test_values(parameters: str, method: str) -> None:
    """Every window as the reference has it, NaN where it divides by nothing."""
    shape = (2, 3, 5, 7)
    run(pool(f"pool: {method} {parameters}", shape), x=numbers(*shape))


@pytest.mark.parametrize(
    "parameters",
    [text for text in SETTINGS.values() if "pad" not in text or "pad: 0" in text],
)
def test_stochastic_at_test(parameters: str) -> None:
    """Every window as the reference has it; 0 where it is empty."""
    shape = (2, 3, 5, 7)
    run(pool(f"pool: STOCHASTIC {parameters}", shape), x=np.abs(numbers(*shape)))


def test_stochastic_in_training() -> None:
    """Each value is drawn as often as its share of its window's sum says, by the module
    and by the reference, and takes the gradient."""
    window = np.array([[1, 0, 2], [0, 4, 1]], np.float32)
    x = np.tile(window, (1, 4000, 1, 1))
    x[:, :, :, :2] *= 2  # 2, 0, 0, 8, of which the last is the larger by far
    text = pool("pool: STOCHASTIC kernel_size: 2 stride: 2", x.shape)
    conversion = caffe2flax.convert(text, phase="TRAIN")
    assert conversion.graph.random == ("l",)
    module = instantiate(conversion)
    module.train()
    last = jnp.asarray(x.transpose(0, 2, 3, 1))
    y, back = jax.vjp(lambda x: module(x, rngs=nnx.Rngs(dropout=0)), last)
    told = expected(text, None, {"x": x}, phase="TRAIN")["y"]
    for drawn in (np.asarray(y).transpose(0, 3, 1, 2), told):
        assert drawn.shape == (1, 4000, 1, 2)
        for column, shares in enumerate(({2: 0.2, 8: 0.8}, {2: 2 / 3, 1: 1 / 3})):
            values, counts = np.unique(drawn[..., column], return_counts=True)
            assert set(values) == set(shares)
            for value, count in zip(values, counts, strict=True):
                assert abs(count / 4000 - shares[value]) < 0.04
    (gradient,) = back(jnp.ones_like(y))
    assert np.sum(gradient) == y.size
    np.testing.assert_array_equal(np.sum(gradient * last), np.sum(y))
    with pytest.raises(ValueError, match="rngs are needed"):
        module(last)
    module.eval()
    whole = expected(text, None, {"x": x})["y"]
    np.testing.assert_allclose(np.asarray(module(last)).transpose(0, 3, 1, 2), whole)


VOLUMES = {
    "cubes": "kernel_size: 2 stride: 2",
    "an axis each": "kernel_size: [1, 2, 3] stride: [1, 2, 2]",
    "pad": "kernel_size: 3 stride: 2 pad: 1",
    "pads": "kernel_size: 3 stride: [2, 3, 1] pad: [0, 1, 2]",
    "everywhere": "global_pooling: true",
}


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("parameters", VOLUMES.values(), ids=VOLUMES.keys())
def test_volumes(parameters: str, method: str) -> None:
    """Forks pool over three axes, each as Caffe does the two that it has."""
    shape = (2, 3, 4, 5, 7)
    x = numbers(*shape)
    y = run(pool(f"pool: {method} {parameters}", shape), x=x)
    reduce = np.max if method == "MAX" else np.mean
    if "global" in parameters:
        np.testing.assert_allclose(y, reduce(x, (2, 3, 4), keepdims=True), 1e-5)
    elif "[1, 2, 3]" in parameters:
        first = reduce(x[:, :, :, :2, :3], (3, 4))
        np.testing.assert_allclose(y[:, :, :, 0, 0], first, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "parameters", ["round_mode: FLOOR", "ceil_mode: false", "torch_pooling: true"]
)
def test_sizes_that_round_down(parameters: str) -> None:
    shape = (1, 2, 6, 7)
    y = run(pool(f"kernel_size: 3 stride: 2 {parameters}", shape), x=numbers(*shape))
    assert y.shape == (1, 2, 2, 3)


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS.keys())
def test_mask(parameters: str) -> None:
    """The mask says where each maximum is; -1 where there is none."""
    shape = (2, 3, 5, 7)
    x = np.round(numbers(*shape))  # with equals
    text = pool(parameters, shape, "mask")
    conversion = caffe2flax.convert(text)
    found = execute(conversion, {"x": x}, ["outputs"])
    top, mask = found["y"], found["mask"].astype(int)
    told = expected(text, None, {"x": x})
    np.testing.assert_array_equal(mask, told["mask"])
    flat = x.reshape(2, 3, -1)
    for n, c, i, j in np.ndindex(*mask.shape):
        value = flat[n, c, mask[n, c, i, j]] if mask[n, c, i, j] >= 0 else LOWEST
        assert top[n, c, i, j] == value


def test_mask_of_equals_and_nan() -> None:
    """The first of equals counts, NaN does not; indices are whole in half precision."""
    image = np.full((1, 40, 40, 1), 1.0, np.float32)
    image[0, 0, 0] = np.nan
    image[0, -2:, -2:] = np.nan
    for dtype in (np.float32, jnp.bfloat16):
        top, mask = max_pool_with_mask(jnp.asarray(image, dtype), (2, 2), (2, 2))
        assert mask.dtype == np.float32
        assert mask[0, 0, 0, 0] == 1
        assert mask[0, 19, 18, 0] == 38 * 40 + 36
        assert mask[0, 19, 19, 0] == -1
        assert top[0, 19, 19, 0] == jnp.finfo(dtype).min


@pytest.mark.parametrize("size", [3, 9])
def test_global_gradient_goes_to_the_first(size: int) -> None:
    """Of equal maxima only the first gets the gradient, as in Caffe."""
    x = jnp.zeros((1, size, size, 2))
    gradient = jax.grad(lambda x: nnx.max_pool(x, x.shape[1:-1]).sum())(x)
    assert gradient.sum() == 2
    np.testing.assert_array_equal(gradient[0, 0, 0], [1, 1])


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("height", "size"),
    [(1, (5, 4)), (2, (5, 5)), (3, (8, 12)), (3, (11, 7)), (2, (2, 3))],
)
def test_pyramid(method: str, height: int, size: tuple[int, int]) -> None:
    """As many bins as the pooling of each level gives, in Caffe's order."""
    shape = (2, 3, *size)
    parameters = f"spp_param {{ pool: {method} pyramid_height: {height} }}"
    top = run(net(single("SPP", parameters), x=shape), x=numbers(*shape))
    assert top.shape == ((2, 3, 1, 1) if height == 1 else (2, top.shape[1]))
    if height > 1 and method == "MAX":
        whole = numbers(*shape).max((2, 3))
        np.testing.assert_array_equal(top[:, :3], whole)


REFUSED = {
    "two kernels": "kernel_size: 2 kernel_size: 3",
    "kernel and side": "kernel_size: 2 kernel_h: 3 kernel_w: 3",
    "one side": "kernel_h: 3",
    "one stride": "kernel_size: 3 stride_h: 2",
    "one pad": "kernel_size: 3 pad_w: 1",
    "pad too large": "kernel_size: 2 pad: 2",
    "kernels of more axes": "kernel_size: [2, 2, 2]",
    "no kernel": "",
    "everywhere, stride": "global_pooling: true stride: 2",
    "everywhere, pad": "global_pooling: true pad: 1",
    "stochastic, pad": "kernel_size: 3 pad: 1 pool: STOCHASTIC",
    "stochastic by number, pad": "kernel_size: 3 pad_h: 0 pad_w: 1 pool: 2",
    "no output": "kernel_size: 9 round_mode: FLOOR",
    "negative": "kernel_size: -1",
}


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("parameters", REFUSED.values(), ids=REFUSED.keys())
def test_refused(parameters: str, phase: str) -> None:
    with pytest.raises(caffe2flax.ConversionError):
        caffe2flax.convert(pool(parameters, (1, 1, 5, 5)), phase=phase)


@pytest.mark.parametrize(
    "text",
    [
        pool("kernel_size: 2 pool: AVE", (1, 1, 4, 4), "mask"),
        pool("kernel_size: 2", (1, 1, 4, 4), "mask", "more"),
        pool("kernel_size: 2", (1, 4, 4)),
        pool("kernel_size: 2", (1, 4, 4, 4, 4, 4)),
        pool("kernel_size: 2", (1, 4, 4, 4, 4), "mask"),
        pool("kernel_size: 2 pool: STOCHASTIC", (1, 4, 4, 4, 4)),
        pool("kernel_size: 2 pool: STOCHASTIC", (1, 4, 4, 4), "mask"),
        pool("kernel_h: 2 kernel_w: 2", (1, 4, 4, 4, 4)),
        net(single("SPP", "spp_param { pyramid_height: 0 }"), x=(1, 1, 4, 4)),
        net(single("SPP", "spp_param { pyramid_height: 99999 }"), x=(1, 1, 4, 4)),
        net(single("SPP", ""), x=(1, 1, 4, 4)),
        net(single("SPP", "spp_param { pyramid_height: 4 }"), x=(1, 1, 13, 10)),
        net(single("SPP", "spp_param { pyramid_height: 2 }"), x=(1, 4, 4)),
        net(
            single("SPP", "spp_param { pyramid_height: 1 pool: STOCHASTIC }"),
            x=(1, 1, 4, 4),
        ),
    ],
)
def test_refused_nets(text: str) -> None:
    with pytest.raises(caffe2flax.ConversionError):
        caffe2flax.convert(text)


def test_any_size() -> None:
    """The module pools images of another size than the file names."""
    text = pool("kernel_size: 3 stride: 2 pad: 1", (1, 2, 7, 7))
    model = instantiate(caffe2flax.convert(text))
    other = pool("kernel_size: 3 stride: 2 pad: 1", (3, 2, 9, 9))
    x = numbers(3, 2, 9, 9)
    ours = np.asarray(model(jnp.asarray(x.transpose(0, 2, 3, 1))))
    told = expected(other, None, {"x": x})["y"]
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), told)
