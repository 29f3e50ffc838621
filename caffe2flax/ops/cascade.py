"""Layers of Cascade R-CNN, in arrays of fixed shape."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.detection import nms
from caffe2flax.ops.mscnn import best_regions


def box_group_output(
    *maps: Array,
    fields: Sequence[Sequence[tuple[float, float]]],
    strides: Sequence[float],
    score_threshold: float = 0.0,
    nms_threshold: float = 0.5,
    share_of: str = "union",
    size_ratio: float = 2.0,
    shift_ratio: float = 2.0,
    top_k: int = 0,
    keep_top_k: int = 0,
    min_size: float = 15.0,
    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> tuple[Array, Array]:
    """Boxes that pairs of maps predict: regions (N * R, 5, 1, 1) and scored ones, as
    `box_output` gives them.

    A pair is probabilities (N * G, H, W, classes) and shifts (N * G, H, W, 4), for G
    fields (width, height) at each cell. The score is 1 less the background's
    probability.
    """
    boxes, scores = [], []
    pairs = zip(maps[::2], maps[1::2], fields, strides, strict=True)
    for prob, shift, sizes, stride in pairs:
        prob, shift = (lax.stop_gradient(x).astype(jnp.float32) for x in (prob, shift))
        _, height, width, _ = prob.shape
        groups = len(sizes)
        y, x = (np.mgrid[:height, :width] + 0.5) * stride
        cells = jnp.asarray(np.stack([x, y], -1)[None, None], jnp.float32)
        field = jnp.asarray(sizes, jnp.float32)[None, :, None, None]
        normal = jnp.asarray([means, stds], jnp.float32)[:, None, None, None, None]
        moved = shift.reshape(-1, groups, height, width, 4) * normal[1] + normal[0]
        limit, factor = 1 / shift_ratio, float(np.log(size_ratio))
        centre = jnp.clip(moved[..., :2], -limit, limit) * field + cells
        extent = field * jnp.exp(jnp.clip(moved[..., 2:], -factor, factor))
        low = centre - extent / 2
        edge = jnp.array([width, height], jnp.float32) * stride
        high = jnp.minimum(low + extent - 1, edge[None, None, None, None])
        low = jnp.maximum(low, 0)
        score = 1 - prob[..., 0].reshape(moved.shape[:-1])
        valid = (score >= score_threshold) & (high - low + 1 >= min_size).all(-1)
        images = len(moved)
        boxes.append(jnp.concatenate([low, high], -1).reshape(images, -1, 4))
        scores.append(jnp.where(valid, score, -jnp.inf).reshape(images, -1))
    return best_regions(
        jnp.concatenate(boxes, 1),
        jnp.concatenate(scores, 1),
        threshold=nms_threshold,
        share_of=share_of,
        top_k=top_k,
        keep_top_k=keep_top_k,
        pixel=1.0,
    )


def frcnn_output(
    prob: Array,
    deltas: Array,
    rois: Array,
    sizes: Array,
    *,
    score_threshold: float = 0.0,
    nms_threshold: float = 0.5,
    share_of: str = "union",
    keep_top_k: int = 0,
    each_class: bool = True,
    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Array:
    """Detections (1 + D, 7, 1, 1): image, x1, y1, x2, y2, class, score a row.

    prob is (R, C), deltas (R, 4 C), or (R, 8) unless `each_class`, of which the second
    four count; rois (R, 5 or more), sizes the image's height and width. The first row
    is 0, then -1. Each class but the first has its boxes, thinned out by `nms`; the
    `keep_top_k` best of all remain, in order of class, then score. Unused rows are -1
    and stand last.
    """
    prob, deltas, rois, sizes = (
        lax.stop_gradient(x).astype(jnp.float32) for x in (prob, deltas, rois, sizes)
    )
    count = len(prob)
    prob, region = prob.reshape(count, -1), rois.reshape(count, -1)[:, None, 1:5]
    normal = jnp.asarray([means, stds], jnp.float32)[:, None, None]
    shift = deltas.reshape(count, -1, 4)[:, 1:] * normal[1] + normal[0]
    extent = region[..., 2:] - region[..., :2] + 1
    centre = (region[..., 2:] + region[..., :2]) / 2 + shift[..., :2] * extent
    extent = extent * jnp.exp(shift[..., 2:])
    low = centre - (extent - 1) / 2
    edge = sizes.reshape(-1)[1::-1][None, None]
    boxes = [jnp.maximum(low, 0), jnp.minimum(low + extent - 1, edge)]
    found = jnp.concatenate(boxes, -1).transpose(1, 0, 2)
    scores = jnp.where(prob >= score_threshold, prob, -jnp.inf)[:, 1:].T
    classes = len(scores)
    if not each_class:
        found = jnp.broadcast_to(found[:1], (classes, count, 4))
    ranked, places = lax.top_k(scores, count)
    found = jnp.take_along_axis(found, places[..., None], 1)

    kept = jax.vmap(
        lambda b, v: nms(b, v, nms_threshold, share_of=share_of, pixel=1.0, apart=True)
    )(found, ranked > -jnp.inf).reshape(-1)
    ranked, found = ranked.reshape(-1), found.reshape(-1, 4)
    label = jnp.asarray(np.repeat(np.arange(1, classes + 1), count), jnp.float32)
    order = jnp.arange(len(kept))
    if 0 < keep_top_k < len(kept):
        best = jnp.argsort(jnp.where(kept, -ranked, jnp.inf), stable=True)
        order = jnp.sort(best[:keep_top_k])
    columns = [jnp.zeros_like(label), *found.T, label, ranked]
    table = jnp.where(kept[:, None], jnp.stack(columns, 1), -1)[order]
    table = table[jnp.argsort(~kept[order], stable=True)]
    first = jnp.full((1, 7), -1, table.dtype).at[0, 0].set(0)
    return jnp.concatenate([first, table])[..., None, None]


def scale_route(
    rois: Array, *others: Array, low: float, high: float, middle: float
) -> tuple[Array, ...]:
    """The rows of all blobs whose region in rois (R, 5), axes of 1 behind, has a scale
    from `low` on and below `high`, the root of its area; the one nearest to `middle`
    where there is none, with axes of 1 behind, four in all. Behind the last one its row
    is repeated."""
    corners = lax.stop_gradient(rois.reshape(len(rois), 5))[:, 1:].astype(jnp.float32)
    sides = corners[:, 2:] - corners[:, :2]
    area = jnp.where((sides >= 0).all(1), (sides + 1).prod(1), 0)
    scale = jnp.sqrt(area)
    chosen = (scale >= low) & (scale < high)
    nearest = jnp.abs(jnp.log2(scale / middle)).argmin()
    order = jnp.argsort(~chosen, stable=True)
    last = jnp.maximum(chosen.sum() - 1, 0)
    order = jnp.where(chosen.any(), order, nearest)
    order = order[jnp.minimum(jnp.arange(len(rois)), last)]
    chosen_rows = (x[order] for x in (rois, *others))
    return tuple(x.reshape(*x.shape, *(1,) * (4 - x.ndim)) for x in chosen_rows)
