"""Proposals of MS-CNN and Cascade R-CNN, in arrays of fixed shape."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.detection import nms
from caffe2flax.ops.proposal import region_rows


def box_output(
    *maps: Array,
    fields: Sequence[tuple[int, int]],
    strides: Sequence[int],
    score_threshold: float = 0.0,
    nms_threshold: float = 0.5,
    share_of: str = "union",
    size_ratio: float = 2.0,
    shift_ratio: float = 2.0,
    top_k: int = 0,
    keep_top_k: int = 0,
    min_size: float = 15.0,
    means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
) -> tuple[Array, Array]:
    """Boxes that several maps (N, H, W, classes + 4) predict: regions and scored ones.

    (N * R, 5, 1, 1): image, x1, y1, x2, y2; (N * R, 6, 1, 1): with the score, that of
    the best class less that of the background. A cell is `strides` pixels, its box
    moved by up to 1 / shift_ratio of its field (width, height) and sized within a
    factor of size_ratio. The `top_k` best of each image are thinned out by `nms`.

    Behind the last box its row is repeated, and the scored rows are -1. Without any box
    the first region is 1, 1, 10, 10 on image 0, and the first scored row 0.
    """
    found = []
    for x, field, stride in zip(maps, fields, strides, strict=True):
        x = lax.stop_gradient(x).astype(jnp.float32)
        height, width = x.shape[1:3]
        y0, x0 = (np.mgrid[:height, :width] + 0.5) * stride
        cells = jnp.asarray(np.stack([x0, y0], -1)[None], jnp.float32)
        size = jnp.asarray(field, jnp.float32)[None, None, None]
        score = x[..., 1:-4].max(-1) - x[..., 0]
        normal = jnp.asarray([means, stds], jnp.float32)[:, None, None, None]
        shift = x[..., -4:] * normal[1] + normal[0]
        limit, factor = 1 / shift_ratio, float(np.log(size_ratio))
        centre = jnp.clip(shift[..., :2], -limit, limit) * size + cells
        extent = size * jnp.exp(jnp.clip(shift[..., 2:], -factor, factor))
        low = jnp.maximum(centre - extent / 2, 0)
        image = jnp.array([width, height], jnp.float32) * stride
        extent = jnp.minimum(extent, image[None, None, None] - low)
        valid = (score >= score_threshold) & (extent >= min_size).all(-1)
        ranked = jnp.where(valid, score, -jnp.inf)
        rows = jnp.concatenate([ranked[..., None], low, low + extent], -1)
        found.append(rows.reshape(x.shape[0], -1, 5))
    # Of equal scores Caffe takes the later cell first.
    rows = jnp.concatenate(found, 1)[:, ::-1]
    return best_regions(
        rows[..., 1:],
        rows[..., 0],
        threshold=nms_threshold,
        share_of=share_of,
        top_k=top_k,
        keep_top_k=keep_top_k,
    )


def best_regions(
    boxes: Array,
    scores: Array,
    *,
    threshold: float,
    share_of: str,
    top_k: int,
    keep_top_k: int,
    pixel: float = 0.0,
) -> tuple[Array, Array]:
    """The rows of `box_output` for boxes (N, K, 4) with scores (N, K), -inf for those
    that do not count; `pixel` is 1 where x2 and y2 are inside a box."""
    best = min(top_k or scores.shape[1], scores.shape[1])
    scores, places = lax.top_k(scores, best)
    boxes = jnp.take_along_axis(boxes, places[..., None], 1)
    limit = keep_top_k or best
    thin = functools.partial(
        nms, limit=limit, share_of=share_of, pixel=pixel, apart=pixel > 0
    )
    kept = jax.vmap(lambda b, v: thin(b, v, threshold))(boxes, scores > -jnp.inf)
    table, scores = region_rows(boxes, scores, kept, min(limit, best))
    count, place = kept.sum(), jnp.arange(len(table))[:, None]
    none = jnp.array([[0, 1, 1, 10, 10]], table.dtype)
    scored = jnp.concatenate([table, scores[:, None]], 1)
    scored = jnp.where(place < count, scored, -1)
    scored = jnp.where((count == 0) & (place == 0), 0, scored)
    return jnp.where(count > 0, table, none)[..., None, None], scored[..., None, None]


def move_regions(
    deltas: Array, rois: Array, means: tuple[float, ...], stds: tuple[float, ...]
) -> Array:
    """Regions (R, 5), axes of 1 behind, moved by the second four of deltas (R, 8)."""
    wide = np.promote_types(rois.dtype, np.float32)
    image, corners = rois.reshape(-1, 5)[:, :1].astype(wide), rois.reshape(-1, 5)[:, 1:]
    corners = corners.astype(wide)
    shift = deltas.reshape(-1, 8)[:, 4:].astype(wide)
    shift = shift * jnp.asarray([stds], wide) + jnp.asarray([means], wide)
    size = corners[:, 2:] - corners[:, :2] + 1
    centre = 0.5 * (corners[:, 2:] + corners[:, :2]) + shift[:, :2] * size
    size = size * jnp.exp(shift[:, 2:])
    low = centre - (size - 1) / 2
    return jnp.concatenate([image, low, low + size - 1], 1)[..., None, None]
