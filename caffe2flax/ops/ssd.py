"""Normalization and prior boxes of SSD detectors."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


class Normalize(nnx.Module):
    """x / sqrt(sum of x^2 + epsilon) * scale; the sum is along `axis`, the channels.

    With `across_spatial` it goes over all axes but the first. `scale` has one entry for
    each channel, or none: shape is (C,) or ().
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        axis: int = -1,
        across_spatial: bool = False,
        epsilon: float = 1e-10,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        rngs: nnx.Rngs,
    ):
        self.axis = axis
        self.across_spatial = across_spatial
        self.epsilon = epsilon
        self.scale = nnx.Param(scale_init(rngs.params(), shape))

    def __call__(self, x: Array) -> Array:
        axes = tuple(range(1, x.ndim)) if self.across_spatial else self.axis
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        scale = self.scale[...].astype(wide.dtype)
        own = self.axis % x.ndim if scale.ndim else None
        scale = jnp.expand_dims(scale, tuple(i for i in range(x.ndim) if i != own))
        return scaled_unit(wide, scale, axes, self.epsilon).astype(x.dtype)


def scaled_unit(
    x: Array, scale: Array, axes: int | tuple[int, ...], epsilon: float
) -> Array:
    """x / sqrt(sum of x^2 over `axes` + epsilon) * scale.

    The gradient of x is Caffe's, which applies `scale` behind the projection where by
    rights it stands before: they differ where channels have scales of their own.
    """

    @jax.custom_jvp
    def unit(x: Array, scale: Array) -> Array:
        total = jnp.square(x).sum(axes, keepdims=True) + epsilon
        return x * lax.rsqrt(total) * scale

    @unit.defjvp
    def differential(
        given: tuple[Array, Array], d: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        x, scale = given
        inverse = lax.rsqrt(jnp.square(x).sum(axes, keepdims=True) + epsilon)
        y, v = x * inverse, scale * d[0]
        projected = inverse * (v - y * (y * v).sum(axes, keepdims=True))
        return y * scale, projected + y * d[1]

    return unit(x, scale)


def norm_l2(x: Array, axis: int = -1) -> Array:
    """sqrt(sum of x^2 along `axis` + 1e-6)."""
    return jnp.sqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-6)


def norm_l1(x: Array, axis: int = -1) -> Array:
    """Sum of |x| along `axis` + 1e-6."""
    return jnp.abs(x).sum(axis, keepdims=True) + 1e-6


def unit_l2(x: Array, axis: int = -1) -> Array:
    """x / sqrt(sum of x^2 along `axis` + 1e-6)."""
    return x * lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-6)


def unit_l1(x: Array, axis: int = -1) -> Array:
    """x / (sum of |x| along `axis` + 1e-6)."""
    return x / (jnp.abs(x).sum(axis, keepdims=True) + 1e-6)


def prior_boxes(
    features: Sequence[int],
    image: Sequence[int],
    *,
    min_sizes: tuple[int, ...],
    max_sizes: tuple[int, ...] = (),
    aspect_ratios: tuple[float, ...] = (),
    variances: tuple[float, ...] = (0.1,),
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    flip: bool = False,
    inside: bool = False,
    halve_smallest: bool = False,
    denser: bool = False,
) -> Array:
    """Boxes around each cell of a feature map, a constant (1, 2, H * W * boxes * 4).

    features and image are (H, W). Row 0 has x1, y1, x2, y2 of each box as shares of the
    image, cut off at its edges if `inside`; row 1 has their variances. For each of
    min_sizes a cell has a square of that size, one of the geometric mean with its
    max_size, and a box for each ratio, and its inverse if `flip`. If `denser`, each box
    comes twice, the second time around the lower edge of the cell.
    """
    ratios = [r for a in aspect_ratios for r in ((a, 1 / a) if flip else (a,))]
    sizes = []
    for i, small in enumerate(min_sizes):
        sizes.append([small / 2 if halve_smallest else small] * 2)
        sizes += [[(small * large) ** 0.5] * 2 for large in max_sizes[i : i + 1]]
        sizes += [[small * r**0.5, small / r**0.5] for r in ratios]
    steps = step or (image[0] / features[0], image[1] / features[1])
    lower = (0, (1 - offset) * steps[0])
    shifts = [(0, 0), lower] if denser else [(0, 0)]
    boxes = [(*size, *shift) for size in sizes for shift in shifts]
    return placed_boxes(features, image, boxes, variances, steps, offset, inside)


def clustered_boxes(
    features: Sequence[int],
    image: Sequence[int],
    *,
    sizes: tuple[tuple[float, float], ...],
    variances: tuple[float, ...] = (0.1,),
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    inside: bool = False,
) -> Array:
    """`prior_boxes` of these sizes (width, height)."""
    steps = step or (image[0] / features[0], image[1] / features[1])
    boxes = [(*size, 0, 0) for size in sizes]
    return placed_boxes(features, image, boxes, variances, steps, offset, inside)


def face_boxes(
    features: Sequence[int],
    image: Sequence[int],
    *,
    sizes: tuple[int, ...],
    variances: tuple[float, ...] = (0.1,),
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    inside: bool = False,
) -> Array:
    """`prior_boxes` of FaceBoxes: squares whose corners are size - 1 apart, that of 32
    4 x 4 times in a cell, 8 apart, and that of 64 2 x 2 times, 16 apart."""
    steps = step or (image[0] / features[0], image[1] / features[1])
    boxes = []
    for size in sizes:
        places = {32: (-16, -8, 0, 8), 64: (-16, 0)}.get(size, (0,))
        boxes += [(size - 1, size - 1, x, y) for y in places for x in places]
    return placed_boxes(features, image, boxes, variances, steps, offset, inside)


def placed_boxes(
    features: Sequence[int],
    image: Sequence[int],
    boxes: Sequence[tuple[float, ...]],
    variances: tuple[float, ...],
    steps: tuple[float, float],
    offset: float,
    inside: bool,
) -> Array:
    """The constant of `prior_boxes` for boxes (width, height, x, y) in each cell, x and
    y from its middle."""
    half, shifts = np.array(boxes)[:, :2] / 2, np.array(boxes)[:, 2:]
    ys, xs = ((np.arange(n) + offset) * s for n, s in zip(features, steps, strict=True))
    cells = np.array([(x, y) for y, x in itertools.product(ys, xs)])[:, None]
    corners = np.concatenate([cells + shifts - half, cells + shifts + half], -1)
    corners = corners / np.array([image[1], image[0]] * 2)
    if inside:
        corners = corners.clip(0, 1)
    spread = np.resize(np.array(variances), corners.size)
    return jnp.asarray(np.stack([corners.ravel(), spread])[None], jnp.float32)
