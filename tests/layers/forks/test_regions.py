"""Layers of region-based detectors against the loops of the forks that made them."""

from __future__ import annotations

import numpy as np
import pytest

import caffe2flax
from tests.golden import distance
from tests.layers.forks.test_detection import by_reference, net

RNG = np.random.default_rng(0)


def regions(count: int, images: int, height: int, width: int) -> np.ndarray:
    """Regions of every kind: inside, beyond the edges, empty, a pixel, upside down."""
    corners = RNG.uniform(-0.2, 1.1, (count, 2, 2)) * [width, height]
    corners = np.sort(corners, axis=1).reshape(count, 4)
    corners[0] = [0, 0, width - 1, height - 1]
    corners[1] = [3, 3, 3, 3]
    corners[2] = [9, 8, 4, 5]
    corners[3] = [-50, -50, -40, -30]
    corners[4] = [width + 5, 2, width + 9, 8]
    corners[5] = [-3 * width, -3 * height, 4 * width, 4 * height]
    corners[6] = np.floor(corners[6]) + 0.5
    corners[7] = [0.5, 1.5, 2.5, 6.5]
    image = RNG.integers(0, images, (count, 1))
    return np.concatenate([image, corners], 1).astype(np.float32)


POOLING = [
    ("ROIPooling", "roi_pooling_param { pooled_h: 7 pooled_w: 7 }", 3),
    (
        "ROIPooling",
        "roi_pooling_param { pooled_h: 6 pooled_w: 3 spatial_scale: 0.25 }",
        3,
    ),
    (
        "ROIPooling",
        "roi_pooling_param { pooled_h: 2 pooled_w: 5 spatial_scale: 0.5 "
        "pad_ratio: 0.25 }",
        2,
    ),
    ("ROIPooling", "roi_pooling_param { pooled_h: 1 pooled_w: 1 }", 1),
    ("ROIAlign", "roi_pooling_param { pooled_h: 7 pooled_w: 7 }", 3),
    (
        "ROIAlign",
        "roi_pooling_param { pooled_h: 4 pooled_w: 2 spatial_scale: 0.25 "
        "pad_ratio: 0.25 }",
        3,
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.25 }",
        18,
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 3 group_size: 1 spatial_scale: 1 }",
        3,
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 1 group_size: 7 spatial_scale: 0.0625 }",
        49,
    ),
]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("type_", "parameters", "channels"), POOLING)
def test_regions(type_: str, parameters: str, channels: int, images: int) -> None:
    x = RNG.normal(size=(images, channels, 19, 27)).astype(np.float32)
    rois = regions(40, images, 19 * 4, 27 * 4)
    rois = rois[..., None, None] if images == 2 else rois
    shapes = {"x": x.shape, "rois": rois.shape}
    prototxt = net(type_, shapes, parameters)
    inputs = {"x": x, "rois": rois}
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    assert distance(ours, by_reference(prototxt, inputs)) < 1e-5


def test_bins_are_cut_in_float32() -> None:
    """A quotient that is rounded up reaches one row further, as in Caffe."""
    sizes = np.arange(1, 200)
    rois = np.zeros((len(sizes), 5), np.float32)
    rois[:, 3], rois[:, 4] = sizes - 1, sizes[::-1] - 1
    x = RNG.normal(size=(1, 1, 200, 200)).astype(np.float32)
    inputs = {"x": x, "rois": rois}
    shapes = {name: array.shape for name, array in inputs.items()}
    for bins in (3, 7, 11):
        size = f"pooled_h: {bins} pooled_w: {bins}"
        prototxt = net("ROIPooling", shapes, f"roi_pooling_param {{ {size} }}")
        (ours,) = caffe2flax.run(prototxt, None, inputs).values()
        assert distance(ours, by_reference(prototxt, inputs)) < 1e-6


def test_many_channels_go_in_blocks() -> None:
    """The table of maxima is built for some channels at a time: the same numbers."""
    import jax
    import jax.numpy as jnp

    from caffe2flax.ops.regions import roi_max_pool

    x = jnp.asarray(RNG.normal(size=(1, 64, 80, 128)), jnp.float32)
    rois = jnp.asarray(regions(10, 1, 64, 80))
    pool = jax.jit(lambda x: roi_max_pool(x, rois, (3, 4)))
    parts = [pool(x[..., :64]), pool(x[..., 64:])]
    np.testing.assert_array_equal(pool(x), np.concatenate(parts, -1))


def test_gradients_of_regions() -> None:
    """The first of equal maxima gets the gradient, means share it."""
    import jax
    import jax.numpy as jnp

    from caffe2flax.ops.regions import roi_align, roi_group_mean, roi_max_pool

    rois = jnp.array([[0, 0, 0, 3, 3]], jnp.float32)
    flat = jnp.ones((1, 4, 4, 4))

    def gradient(f):
        return jax.jit(jax.grad(lambda x: f(x).sum()))

    first = gradient(lambda x: roi_max_pool(x, rois, (1, 1)))(flat)
    assert first[0, 0, 0, 0] == 1
    assert first.sum() == 4
    shared = gradient(lambda x: roi_group_mean(x, rois, 2))(flat)
    np.testing.assert_allclose(shared.sum(), 4, rtol=1e-6)
    between = gradient(lambda x: roi_align(x, rois, (2, 2)))(flat)
    assert np.isfinite(between).all()


def test_small_floats() -> None:
    import jax
    import jax.numpy as jnp

    from caffe2flax.ops.regions import roi_align, roi_group_mean, roi_max_pool

    x = jnp.asarray(RNG.normal(size=(1, 9, 9, 4)), jnp.bfloat16)
    rois = jnp.asarray(regions(9, 1, 9, 9))

    def tops(x, rois):
        pooled, aligned = (f(x, rois, (2, 2)) for f in (roi_max_pool, roi_align))
        return pooled, aligned, roi_group_mean(x, rois, 2)

    made = jax.eval_shape(tops, x, rois)
    assert all(top.dtype == jnp.bfloat16 for top in made)


REFUSED = [
    (
        "ROIPooling",
        "roi_pooling_param { pooled_h: 7 }",
        (2, 3, 9, 9),
        (4, 5),
        "pooled_w",
    ),
    (
        "ROIPooling",
        "roi_pooling_param { pooled_h: 7 pooled_w: 7 }",
        (2, 3, 9, 9),
        (4, 4),
        "rows of 5",
    ),
    (
        "ROIAlign",
        "roi_pooling_param { pooled_h: 7 pooled_w: 7 }",
        (2, 3, 9),
        (4, 5),
        "4 axes",
    ),
    (
        "ROIAlign",
        "roi_pooling_param { pooled_h: 7 pooled_w: 7 sampling_ratio: 2 }",
        (2, 3, 9, 9),
        (4, 5),
        "unknown field",
    ),
    ("PSROIPooling", "", (2, 9, 9, 9), (4, 5), "output_dim"),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 1 }",
        (2, 9, 9, 9),
        (4, 5),
        "18 channels",
    ),
]


@pytest.mark.parametrize(("type_", "parameters", "x", "rois", "why"), REFUSED)
def test_refusals(
    type_: str, parameters: str, x: tuple[int, ...], rois: tuple[int, ...], why: str
) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=why):
        caffe2flax.convert(net(type_, {"x": x, "rois": rois}, parameters))
