"""Features of regions of interest.

rois are (R, 5), axes of 1 behind: the number of an image, then x1, y1, x2, y2 on the
input; features are (N, H, W, C). Regions of an image that is not there give what those
of the nearest one do.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def roi_max_pool(
    x: Array,
    rois: Array,
    size: tuple[int, int],
    scale: float = 1.0,
    *,
    pad_ratio: float = 0.0,
) -> Array:
    """The largest x in each of `size` bins of each region, (R, *size, C).

    Corners are scaled and rounded, bins run from floor to ceil, so that they overlap; a
    bin outside the features is 0. Each region grows by pad_ratio of its size at every
    side. Bins are looked up in maxima over windows of 1, 2, 4... rows and columns.
    """
    image, corners = scaled_regions(rois, scale, pad_ratio)
    corners = half_away(corners).astype(jnp.int32)
    sides = zip(corners[:, :2].T, corners[:, 2:].T, size[::-1], (2, 1), strict=True)
    (w0, w1), (h0, h1) = (
        roi_bins(low, jnp.maximum(high - low + 1, 1).astype(jnp.float32), bins, x, axis)
        for low, high, bins, axis in sides
    )
    empty = (h1 <= h0)[:, :, None] | (w1 <= w0)[:, None, :]
    level_h = floor_log2(jnp.maximum(h1 - h0, 1))
    level_w = floor_log2(jnp.maximum(w1 - w0, 1))
    above, left = h0[:, :, None], w0[:, None, :]
    below, right = (h1 - 2**level_h)[:, :, None], (w1 - 2**level_w)[:, None, :]
    image = jnp.clip(image, 0, x.shape[0] - 1)[:, None, None]
    levels = level_h[:, :, None], level_w[:, None, :]

    def pool(x: Array) -> Array:
        table = window_maxima(x)

        def of_row(h: Array) -> Array:
            first, last = (
                table.at[*levels, image, h, w].get(mode="clip") for w in (left, right)
            )
            return later_if_above(first, last)

        best = later_if_above(of_row(above), of_row(below))
        return jnp.where(empty[..., None], 0, best)

    # The table of all channels at once could fill the memory.
    *front, channels = x.shape
    entries = x.size * x.shape[1].bit_length() * x.shape[2].bit_length()
    parts = next(
        n
        for n in range(1, channels + 1)
        if channels % n == 0 and (entries <= n * 2**25 or n == channels)
    )
    if parts == 1:
        return pool(x)
    blocks = jnp.moveaxis(x.reshape(*front, parts, channels // parts), 3, 0)
    pooled = jnp.moveaxis(lax.map(pool, blocks), 0, 3)
    return pooled.reshape(*pooled.shape[:3], channels)


def window_maxima(x: Array) -> Array:
    """Maxima of x over the 2^a x 2^b pixels from each on, (a, b, N, H, W, C).

    NaN is passed over, nothing is below the lowest float.
    """
    lowest = jnp.nan_to_num(jnp.asarray(-jnp.inf, x.dtype))
    rows = [jnp.where(x > lowest, x, lowest)]
    for level in range(x.shape[1].bit_length() - 1):
        rows.append(doubled(rows[-1], 2**level, 1))
    table = []
    for row in rows:
        columns = [row]
        for level in range(x.shape[2].bit_length() - 1):
            columns.append(doubled(columns[-1], 2**level, 2))
        table.append(jnp.stack(columns))
    return jnp.stack(table)


def roi_align(
    x: Array,
    rois: Array,
    size: tuple[int, int],
    scale: float = 1.0,
    *,
    pad_ratio: float = 0.0,
) -> Array:
    """x between pixels, at the corners of `size` bins: (R, size + 1, size + 1, C).

    The middle of the first pixel is 0.5 on the scaled input. Points outside are 0, and
    so are regions without an extent.
    """
    image, corners = scaled_regions(rois, scale, pad_ratio)
    starts, extents = corners[:, :2] - 0.5, corners[:, 2:] - corners[:, :2]
    points = [
        corner_points(starts[:, axis], extents[:, axis], bins, bins + 1)
        for axis, bins in ((1, size[0]), (0, size[1]))
    ]
    some = (extents > 0).all(1)[:, None, None, None]
    return jnp.where(some, between_pixels(x, image, *points), 0)


def roi_warp(x: Array, rois: Array, size: tuple[int, int], scale: float = 1.0) -> Array:
    """x between pixels, at the first corner of each of `size` bins: (R, *size, C).

    Corners are scaled and rounded. Points outside are 0.
    """
    image, corners = scaled_regions(rois, scale, 0.0)
    corners = half_away(corners)
    extents = jnp.maximum(corners[:, 2:] - corners[:, :2], 0)
    points = [
        corner_points(corners[:, axis], extents[:, axis], bins, bins)
        for axis, bins in ((1, size[0]), (0, size[1]))
    ]
    return between_pixels(x, image, *points)


def corner_points(start: Array, extent: Array, bins: int, count: int) -> Array:
    """Where the first `count` of `bins` bins of each region begin, (R, count)."""
    steps = jnp.outer(divided(extent, bins), jnp.arange(count, dtype=extent.dtype))
    return start[:, None] + steps


def between_pixels(x: Array, image: Array, rows: Array, columns: Array) -> Array:
    """x at points (R, P) and (R, Q) of image (R,), interpolated: (R, P, Q, C).

    The middle of the first pixel is 0. What is up to half a pixel beyond the middle of
    the outermost pixel is as there, and 0 farther out.
    """
    image = jnp.clip(image, 0, x.shape[0] - 1)[:, None, None]
    lows, highs, shares, inside = [], [], [], []
    for point, length in ((rows, x.shape[1]), (columns, x.shape[2])):
        inside.append((point >= -0.5) & (point <= length - 0.5))
        low = jnp.floor(point)
        lows.append(jnp.clip(low, 0, length - 1))
        highs.append(jnp.clip(low + 1, 0, length - 1).astype(jnp.int32))
        shares.append(jnp.clip(point, 0, length - 1) - lows[-1])
        lows[-1] = lows[-1].astype(jnp.int32)
    (h0, w0), (h1, w1), (dh, dw) = lows, highs, shares
    wide = np.promote_types(x.dtype, np.float32)

    def at(h: Array, w: Array, share_h: Array, share_w: Array) -> Array:
        share = share_h[:, :, None] * share_w[:, None, :]
        found = x[image, h[:, :, None], w[:, None, :]].astype(wide)
        return found * share[..., None].astype(wide)

    y = at(h0, w0, 1 - dh, 1 - dw) + at(h0, w1, 1 - dh, dw)
    y = y + at(h1, w0, dh, 1 - dw) + at(h1, w1, dh, dw)
    seen = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(seen[..., None], y, 0).astype(x.dtype)


def roi_group_mean(x: Array, rois: Array, groups: int, scale: float = 1.0) -> Array:
    """Means over groups x groups bins, each of channels of its own: (R, g, g, C / g^2).

    Channel c of bin (i, j) is channel (c * groups + i) * groups + j of x. An empty bin
    is 0.
    """
    image = rois[:, 0].reshape(-1).astype(jnp.int32)
    corners = half_away(rois.reshape(-1, 5)[:, 1:].astype(jnp.float32))
    starts, ends = corners[:, :2] * scale, (corners[:, 2:] + 1) * scale
    extents = jnp.maximum(ends - starts, 0.1)
    images, height, width = x.shape[:3]
    wide = np.promote_types(x.dtype, np.float32)
    own = jnp.clip(image, 0, images - 1)[:, None] == jnp.arange(images)[None]
    masks, lengths = [], []
    for axis, length in ((1, height), (0, width)):
        step = divided(extents[:, axis], groups)
        edges = jnp.outer(step, jnp.arange(groups + 1, dtype=step.dtype))
        edges = edges + starts[:, axis, None]
        low = jnp.clip(jnp.floor(edges[:, :-1]), 0, length)[..., None]
        high = jnp.clip(jnp.ceil(edges[:, 1:]), 0, length)[..., None]
        place = jnp.arange(length, dtype=low.dtype)[None, None]
        masks.append(((place >= low) & (place < high)).astype(wide))
        lengths.append(jnp.maximum(high - low, 0)[..., 0].astype(wide))
    features = x.astype(wide).reshape(images, height, width, -1, groups, groups)
    total = jnp.einsum(
        "rn,rph,rqw,nhwcpq->rpqc",
        own.astype(wide),
        *masks,
        features,
        precision=lax.Precision.HIGHEST,
    )
    areas = lengths[0][:, :, None] * lengths[1][:, None, :]
    return (total / jnp.maximum(areas, 1)[..., None]).astype(x.dtype)


def scaled_regions(rois: Array, scale: float, pad_ratio: float) -> tuple[Array, Array]:
    """The images and corners (R, 4) of regions, grown and scaled."""
    rois = rois.reshape(-1, 5)
    corners = rois[:, 1:].astype(jnp.float32)
    if pad_ratio:
        pad = (corners[:, 2:] - corners[:, :2] + 1) * pad_ratio
        corners = jnp.concatenate([corners[:, :2] - pad, corners[:, 2:] + pad], 1)
    return rois[:, 0].astype(jnp.int32), corners * scale


def roi_bins(
    start: Array, extent: Array, bins: int, x: Array, axis: int
) -> tuple[Array, Array]:
    """First row of each bin, and the first behind it, both inside x: (R, bins)."""
    edges = jnp.outer(divided(extent, bins), jnp.arange(bins + 1, dtype=extent.dtype))
    low, high = (e.astype(jnp.int32) for e in (jnp.floor(edges), jnp.ceil(edges)))
    places = (start[:, None] + edge for edge in (low[:, :-1], high[:, 1:]))
    low, high = (jnp.clip(place, 0, x.shape[axis]) for place in places)
    return low, high


def divided(x: Array, n: int) -> Array:
    """x / n, where x is positive, rounded once as in C: XLA turns a division by a
    constant into a product with its inverse, which is rounded itself."""
    return x / jnp.where(x > 0, n, 1).astype(x.dtype)


def half_away(x: Array) -> Array:
    """x rounded to whole numbers, halves away from 0, as C's round does."""
    low = jnp.floor(x)
    rest = x - low
    return low + jnp.where((rest > 0.5) | ((rest == 0.5) & (x > 0)), 1, 0).astype(
        x.dtype
    )


def floor_log2(x: Array) -> Array:
    """The largest k with 2^k <= x, for integers x from 1 on."""
    return 31 - lax.clz(x.astype(jnp.int32))


def doubled(x: Array, step: int, axis: int) -> Array:
    """The larger of x and x moved by `step` along an axis, nothing beyond its end."""
    if step >= x.shape[axis]:
        return x
    rest = lax.slice_in_dim(x, step, None, 1, axis)
    both = later_if_above(lax.slice_in_dim(x, 0, rest.shape[axis], 1, axis), rest)
    last = lax.slice_in_dim(x, rest.shape[axis], None, 1, axis)
    return jnp.concatenate([both, last], axis)


def later_if_above(a: Array, b: Array) -> Array:
    """max(a, b); of equals the first gets the gradient."""
    return jnp.where(b > a, b, a)
