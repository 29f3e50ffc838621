"""Regions of interest out of a network's predictions, in arrays of fixed shape.

Where there are fewer regions than rows, the last one is repeated: a repetition adds
nothing to what is found, for it is suppressed as a double.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.detection import nms


def propose_regions(
    scores: Array,
    deltas: Array,
    im_info: Array,
    *,
    anchors: Sequence[Sequence[float]],
    stride: int,
    top_k: int,
    keep_top_k: int,
    threshold: float | None = 0.7,
    min_size: float = 16,
    keep_small: bool = False,
    column: bool = False,
) -> tuple[Array, Array]:
    """The best regions of each image and their scores, (N * R, 5) and (N * R,).

    scores is (N, H, W, 2 A), the second half those of objects; deltas (N, H, W, 4 A):
    shifts of the A anchors at each cell, which are `stride` pixels apart. im_info holds
    height, width and scale of the image, with `keep_small` maybe a scale of each. Sides
    below min_size * scale drop a region, or with `keep_small` bring its score to 0. The
    `top_k` best are thinned out by `nms`, unless the threshold is None.

    A row has the number of its image and x1, y1, x2, y2. Behind the last region its row
    is repeated, with score -1; without any region rows are 0. With `column` the scores
    are (N * R, 1).
    """
    scores, deltas, info = (
        lax.stop_gradient(x).astype(jnp.float32)
        for x in (scores, deltas, im_info.reshape(-1))
    )
    images, height, width, _ = scores.shape
    boxes = anchor_boxes(np.array(anchors), stride, height, width)
    moved = shifted_boxes(jnp.asarray(boxes), deltas.reshape(images, -1, 4))
    edge = jnp.stack([info[1], info[0], info[1], info[0]]) - 1
    moved = jnp.maximum(jnp.minimum(moved, edge[None, None]), 0)
    sides = moved[..., 2:] - moved[..., :2] + 1
    two_scales = keep_small and info.size > 3
    scale = info[jnp.array([3, 2])] if two_scales else info[jnp.array([2, 2])]
    large = (sides >= min_size * scale[None, None]).all(-1)
    ranked = scores[..., len(anchors) :].reshape(images, -1)
    ranked = jnp.where(large, ranked, 0 if keep_small else -jnp.inf)
    best = min(top_k, ranked.shape[1]) if top_k > 0 else ranked.shape[1]
    ranked, places = lax.top_k(ranked, best)
    moved = jnp.take_along_axis(moved, places[..., None], 1)
    kept = ranked > -jnp.inf
    if threshold is not None:
        kept = jax.vmap(
            lambda b, v: nms(b, v, threshold, limit=keep_top_k or None, pixel=1.0)
        )(moved, kept)
    table, found = region_rows(moved, ranked, kept, keep_top_k or best)
    return table, found[:, None] if column else found


def text_proposals(
    scores: Array, deltas: Array, im_info: Array, stride: int, anchors: Sequence[Any]
) -> tuple[Array, Array]:
    """CTPN's boxes of text, (H * W * A, 4), and their scores (H * W * A, 1).

    scores is (1, H, W, 2 A), the second half those of text; deltas (1, H, W, 2 A) hold
    for each of the anchors (x1, y1, x2, y2) at each cell, which are `stride` pixels
    apart, the shift of its centre as a share of its height, and the logarithm of the
    factor of its height. Boxes end at the borders of the image, whose height and width
    im_info begins with.
    """
    scores, deltas, info = (
        lax.stop_gradient(x).astype(jnp.float32)
        for x in (scores, deltas, im_info.reshape(-1))
    )
    _, height, width, _ = scores.shape
    boxes = anchor_boxes(np.array(anchors), stride, height, width)
    tall = jnp.asarray(boxes[:, 3] - boxes[:, 1] + 1)
    shift, growth = deltas.reshape(-1, 2).T
    size = jnp.exp(growth) * tall
    top = shift * tall + (boxes[:, 1] + boxes[:, 3]) / 2 - size / 2
    moved = jnp.stack([boxes[:, 0], top, boxes[:, 2], top + size], 1)
    edge = jnp.stack([info[1], info[0], info[1], info[0]]) - 1
    moved = jnp.maximum(jnp.minimum(moved, edge[None]), 0)
    return moved, scores[..., len(anchors) :].reshape(-1, 1)


def region_rows(
    boxes: Array, scores: Array, kept: Array, rows: int
) -> tuple[Array, Array]:
    """The boxes (N, K, 4) that are kept, with their images, and their scores.

    (N * rows, 5) and (N * rows,), the last one repeated with score -1.
    """
    images, count = kept.shape
    first = jnp.argsort(~kept, axis=1, stable=True)[:, :rows]
    boxes = jnp.take_along_axis(boxes, first[..., None], 1)
    scores, kept = (jnp.take_along_axis(x, first, 1) for x in (scores, kept))
    rows = min(rows, count)
    image = jnp.broadcast_to(jnp.arange(images)[:, None, None], (images, rows, 1))
    table = jnp.concatenate([image.astype(boxes.dtype), boxes], -1)
    table, flat = table.reshape(images * rows, 5), kept.reshape(images * rows)
    order = jnp.argsort(~flat, stable=True)
    place = jnp.arange(images * rows)
    used = place < flat.sum()
    order = order[jnp.clip(place, 0, jnp.maximum(flat.sum() - 1, 0))]
    table = jnp.where(flat.any(), table[order], 0)
    return table, jnp.where(used, scores.reshape(images * rows)[order], -1)


def anchor_boxes(
    anchors: np.ndarray, stride: int, height: int, width: int
) -> np.ndarray:
    """Anchors (A, 4) at every cell, in the order of rows, columns, anchors."""
    y, x = np.mgrid[:height, :width] * stride
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    boxes: np.ndarray = (shifts + anchors).reshape(-1, 4).astype(np.float32)
    return boxes


def shifted_boxes(boxes: Array, deltas: Array) -> Array:
    """Boxes (K, 4) moved by deltas (N, K, 4): centres by shares of the size, sizes by
    factors in logarithms."""
    size = (boxes[:, 2:] - boxes[:, :2] + 1)[None]
    centre = boxes[None, :, :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * jnp.exp(deltas[..., 2:]) * size
    return jnp.concatenate([centre - half, centre + half], -1)
