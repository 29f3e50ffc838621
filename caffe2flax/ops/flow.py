"""Layers of optical flow; x is (N, H, W, C)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def correlate(
    a: Array,
    b: Array,
    rows: Sequence[int],
    columns: Sequence[int],
    *,
    pad: tuple[int, int] = (0, 0),
    margin: tuple[int, int] = (0, 0),
    kernel: int = 1,
    stride: int = 1,
    subtract: bool = False,
) -> Array:
    """The mean product of patches, (N, H, W, rows * columns) for a, b (N, H, W, C).

    b is displaced by each of `rows` and `columns`; patches of kernel x kernel have
    their corner in a at `margin` and each `stride` behind. `subtract`: absolute
    differences in place of products.
    """
    ends = ((0, 0), (pad[0], pad[0]), (pad[1], pad[1]), (0, 0))
    a, b = jnp.pad(a, ends), jnp.pad(b, ends)
    height, width = (n - 2 * m for n, m in zip(a.shape[1:3], margin, strict=True))
    one = a[:, margin[0] : margin[0] + height, margin[1] : margin[1] + width]
    excess = max(-min(columns) - margin[1], 0)
    b = jnp.pad(b, ((0, 0), (0, 0), (excess, 0), (0, 0)))
    means = []
    for i in rows:
        for j in columns:
            top, left = margin[0] + i, margin[1] + j + excess
            other = b[:, top : top + height, left : left + width]
            both = jnp.abs(one - other) if subtract else one * other
            means.append(both.mean(-1))
    x = jnp.stack(means, -1)
    sums: Array = lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        lax.add,
        (1, kernel, kernel, 1),
        (1, stride, stride, 1),
        "VALID",
    )
    return sums / kernel**2


def flow_warp(x: Array, flow: Array, *, fill: float = 0.0) -> Array:
    """x at the places that flow (N, H, W, 2: right, down) leads to from each pixel.

    Places lie between four pixels; those beyond the edges are `fill`.
    """
    _, height, width, _ = x.shape
    wide = flow.astype(np.promote_types(flow.dtype, np.float32))
    down = wide[..., 1] + jnp.arange(height, dtype=wide.dtype).reshape(1, -1, 1)
    right = wide[..., 0] + jnp.arange(width, dtype=wide.dtype).reshape(1, 1, -1)
    inside = (down >= 0) & (right >= 0) & (down < height) & (right < width)
    down, right = jnp.where(inside, down, 0), jnp.where(inside, right, 0)
    y, z = (lax.stop_gradient(p).astype(jnp.int32) for p in (down, right))
    below, beside = jnp.minimum(y + 1, height - 1), jnp.minimum(z + 1, width - 1)

    def pick(i: Array, j: Array) -> Array:
        flat = x.reshape(x.shape[0], height * width, -1)
        index = (i * width + j).reshape(x.shape[0], height * width, 1)
        return jnp.take_along_axis(flat, index, 1).reshape(x.shape)

    b = (down - y.astype(down.dtype))[..., None].astype(x.dtype)
    a = (right - z.astype(right.dtype))[..., None].astype(x.dtype)
    high = (1 - a) * pick(y, z) + a * pick(y, beside)
    low = (1 - a) * pick(below, z) + a * pick(below, beside)
    return jnp.where(inside[..., None], (1 - b) * high + b * low, fill)


def channel_norm(x: Array) -> Array:
    """The root of the sum of squares over the channels, whose gradient is 0 at 0."""
    total = jnp.square(x).sum(-1, keepdims=True)
    positive = total > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1)), 0)


def shift_channels(x: Array, shift: tuple[float, ...], *, scale: float = 1.0) -> Array:
    """scale * x + shift, which has one entry for each channel or one for all."""
    return scale * x + jnp.asarray(shift, x.dtype).reshape(1, 1, 1, -1)


def resample(
    x: Array, size: tuple[int, int], *, cubic: bool = False, antialias: bool = True
) -> Array:
    """x in another size by triangles or cubics, which `antialias` widens where it
    becomes smaller. Rows lie by the ratio of widths, as FlowNet2 has it."""
    ratios = [old / new for old, new in zip(x.shape[1:3], size, strict=True)]
    smooth = antialias and max(ratios) > 1
    for axis, (own, other) in enumerate(zip(ratios, ratios[::-1], strict=True), 1):
        place = np.arange(size[axis - 1]) * own + other / 2 - 0.5
        middle = np.floor(np.abs(place) + 0.5) * np.sign(place)
        scale = 1 / own if smooth else 1.0
        reach = 2 if own < 1 else np.ceil((4 if cubic else 2) / scale)
        at = np.arange(x.shape[axis])
        d = np.abs(scale * (place[:, None] - at))
        if cubic:
            far = ((-0.5 * d + 2.5) * d - 4) * d + 2
            weights = np.where(d <= 1, (1.5 * d - 2.5) * d * d + 1, far * (d < 2))
        else:
            weights = np.maximum(1 - d, 0)
        weights = np.where(np.abs(at - middle[:, None]) <= reach, weights, 0)
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
        x = jnp.tensordot(jnp.asarray(weights, x.dtype), x, ((1,), (axis,)))
        x = jnp.moveaxis(x, 0, axis)
    return x


def resample_nearest(x: Array, size: tuple[int, int]) -> Array:
    """x in another size by the nearest pixel, as FlowNet2 places them."""
    ratios = [
        np.float32(old) / np.float32(new)
        for old, new in zip(x.shape[1:3], size, strict=True)
    ]
    for axis, (own, other) in enumerate(zip(ratios, ratios[::-1], strict=True), 1):
        place = np.arange(size[axis - 1], dtype=np.float32) * own + other / 2 - 0.5
        nearest = np.floor(np.abs(place) + 0.5) * np.sign(place)
        x = jnp.take(x, nearest.astype(np.int32), axis)
    return x
