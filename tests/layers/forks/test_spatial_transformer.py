"""SpatialTransformer against sums over all pixels, by their distance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from caffe2flax.ops.spatial_transformer import spatial_transform
from tests.single import Array, check, normal, single

SHAPE = (2, 3, 5, 7)


def through(x: Array, theta: Array, rows: int, columns: int) -> Array:
    """Every pixel of x, weighted by max(0, 1 - distance) along each axis."""
    n, channels, height, width = x.shape
    top = np.zeros((n, channels, rows, columns))
    for k, i, j in np.ndindex(n, rows, columns):
        point = np.array([2 * i / rows - 1, 2 * j / columns - 1, 1])
        down, right = theta[k].reshape(2, 3).astype(float) @ point
        down, right = (down + 1) / 2 * height, (right + 1) / 2 * width
        a = np.maximum(0, 1 - np.abs(down - np.arange(height)))
        b = np.maximum(0, 1 - np.abs(right - np.arange(width)))
        top[k, :, i, j] = np.einsum("chw,h,w->c", x[k].astype(float), a, b)
    return top


CASES = {
    "six numbers": ("st_param { }", {}, (5, 7)),
    "of another size": (
        "st_param { output_H: 4 output_W: 9 to_compute_dU: false }",
        {},
        (4, 9),
    ),
    "some are fixed": (
        "st_param { theta_1_1: 0.5 theta_1_2: 0.1 theta_2_1: 0 theta_2_2: 0.7 }",
        {0: 0.5, 1: 0.1, 3: 0.0, 4: 0.7},
        (5, 7),
    ),
    "one is fixed": ("st_param { theta_2_3: 0.25 output_H: 2 }", {5: 0.25}, (2, 7)),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    text, fixed, size = CASES[name]
    x, full = normal(*SHAPE), 0.7 * normal(2, 6)
    for k, value in fixed.items():
        full[:, k] = value
    theta = full[:, [k for k in range(6) if k not in fixed]]
    expected = through(x, full, *size)
    net = single("SpatialTransformer", text, x.shape, theta.shape)
    check(net, {"x0": x, "x1": theta}, {"out": expected})
    net = single("SpatialTransformer", text, x.shape, (*theta.shape, 1, 1))
    check(net, {"x0": x, "x1": theta[..., None, None]}, {"out": expected})


def test_what_is_far_beyond_the_edges_is_nothing() -> None:
    x = normal(*SHAPE)
    theta = np.tile(np.array([1, 0, 1e6, 0, 1, -1e6], np.float32), (2, 1))
    net = single("SpatialTransformer", "st_param { }", x.shape, theta.shape)
    check(net, {"x0": x, "x1": theta}, {"out": np.zeros(SHAPE)})


def test_gradient() -> None:
    """By theta, against differences."""
    x, theta = np.moveaxis(normal(*SHAPE), 1, -1), 0.3 * normal(2, 6)

    def total(theta: jax.Array) -> jax.Array:
        return (spatial_transform(jnp.asarray(x), theta, (5, 7)) ** 2).sum()

    found = np.asarray(jax.grad(total)(jnp.asarray(theta)))
    images = np.moveaxis(x, -1, 1)
    for k in range(6):
        step = np.zeros((2, 6))
        step[0, k] = 1e-6
        ends = [
            (through(images, theta.astype(float) + s * step, 5, 7) ** 2).sum()
            for s in (1, -1)
        ]
        assert found[0, k] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("", (SHAPE, (2, 6)), "without st_param"),
        ("st_param { }", (SHAPE, (2, 5)), r"theta over .* is \(2, 6\)"),
        ("st_param { theta_1_1: 1 }", (SHAPE, (2, 6)), r"is \(2, 5\)"),
        ("st_param { }", (SHAPE, (1, 6)), r"is \(2, 6\)"),
        ("st_param { }", (SHAPE[1:], (3, 6)), "4 axes"),
        ('st_param { transform_type: "tps" }', (SHAPE, (2, 6)), "'affine' in Caffe"),
        ('st_param { sampler_type: "near" }', (SHAPE, (2, 6)), "'bilinear' in Caffe"),
        ("st_param { output_W: 0 }", (SHAPE, (2, 6)), "output_W must be positive"),
    ],
)
def test_refusals(text: str, shapes: tuple, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single("SpatialTransformer", text, *shapes))
