"""From YOLO's maps to detections, in arrays of fixed shape."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from caffe2flax.ops.detection import nms


def yolo_detections(
    *maps: Array,
    anchors: Sequence[Sequence[tuple[float, float]]],
    scales: Sequence[float],
    one_class: bool,
    confidence_threshold: float,
    nms_threshold: float,
) -> Array:
    """Rows (0, class + 1, score, x1, y1, x2, y2), the best first, as (1, 1, K, 7).

    maps are (N, H, W, anchors * (5 + classes)); the anchors of each count in pixels, of
    which a cell has `scale`. Each cell, anchor and class is a candidate, or with
    `one_class` the best class of each cell and anchor, whose scores are a softmax. Of
    those above the confidence threshold the ones stay that overlap no better one, of
    whatever class and image, by the other threshold. Rows without a detection are -1
    and stand last; where there is none, the first N have their image's number.
    """
    tables, valid = [], []
    for x, sizes, scale in zip(maps, anchors, scales, strict=True):
        boxes, objects, classes = yolo_boxes(x, sizes, scale)
        if one_class:
            classes = jax.nn.softmax(classes, -1)
            labels = classes.argmax(-1, keepdims=True)
            scores = objects[..., None] * classes.max(-1, keepdims=True)
            valid.append((scores >= confidence_threshold).reshape(-1))
        else:
            scores = objects[..., None] * jax.nn.sigmoid(classes)
            labels = jnp.broadcast_to(jnp.arange(classes.shape[-1]), scores.shape)
            valid.append((scores > confidence_threshold).reshape(-1))
        corners = jnp.broadcast_to(boxes[..., None, :], (*scores.shape, 4))
        columns = [jnp.zeros_like(scores), labels.astype(x.dtype) + 1, scores]
        table = jnp.concatenate([jnp.stack(columns, -1), corners], -1)
        tables.append(table.reshape(-1, 7))
    table, found = jnp.concatenate(tables), jnp.concatenate(valid)
    order = jnp.argsort(jnp.where(found, -table[:, 2], np.inf), stable=True)
    table, found = table[order], found[order]
    below = float(np.nextafter(np.float32(nms_threshold), np.float32(0)))
    kept = nms(table[:, 3:], found, below)
    rows = jnp.where(kept[:, None], table, -1)[jnp.argsort(~kept, stable=True)]
    number = jnp.arange(len(rows))
    nothing = jnp.where(number < maps[0].shape[0], number, -1).astype(rows.dtype)
    image = jnp.where(kept.any(), rows[:, 0], nothing)
    return jnp.concatenate([image[:, None], rows[:, 1:]], 1)[None, None]


def yolo_boxes(
    x: Array, sizes: Sequence[tuple[float, float]], scale: float
) -> tuple[Array, Array, Array]:
    """Corners (N, H, W, A, 4) as shares of the image, the scores of an object
    (N, H, W, A), and what tells the classes (N, H, W, A, classes)."""
    n, height, width, _ = x.shape
    cells = x.reshape(n, height, width, len(sizes), -1)
    wide, high = jnp.asarray(sizes, x.dtype).T[:, None, None, None]
    column = jnp.arange(width, dtype=x.dtype)[None, None, :, None]
    row = jnp.arange(height, dtype=x.dtype)[None, :, None, None]
    middle = jnp.stack(
        [
            (column + jax.nn.sigmoid(cells[..., 0])) / width,
            (row + jax.nn.sigmoid(cells[..., 1])) / height,
        ],
        -1,
    )
    half = jnp.stack(
        [
            jnp.exp(cells[..., 2]) * wide / (width * scale) / 2,
            jnp.exp(cells[..., 3]) * high / (height * scale) / 2,
        ],
        -1,
    )
    corners = jnp.concatenate([middle - half, middle + half], -1)
    return corners, jax.nn.sigmoid(cells[..., 4]), cells[..., 5:]


def ctc_greedy(
    x: Array, goes_on: Array, blank: int, merge_repeated: bool
) -> tuple[Array, Array]:
    """The most probable class of each step, without repetitions and blanks.

    x is (T, N, C); goes_on (T, N) is 0 where a sequence has ended. Returns classes
    (N, T, 1, 1), -1 behind the last one, and minus the sum of the scores of all steps
    (N, 1, 1, 1).
    """
    steps, count, _ = x.shape
    best = x.argmax(-1)
    alive = jnp.concatenate(
        [jnp.ones((1, count), bool), (goes_on.reshape(x.shape[:2]) != 0)[1:]]
    )
    alive = jnp.cumprod(alive.astype(jnp.int32), 0) > 0
    before = jnp.concatenate([jnp.full((1, count), -1, best.dtype), best[:-1]])
    emitted = alive & (best != blank)
    if merge_repeated:
        emitted &= best != before
    place = jnp.where(emitted, jnp.cumsum(emitted, 0) - 1, steps)
    images = jnp.broadcast_to(jnp.arange(count)[None], place.shape)
    top = jnp.full((count, steps), -1, x.dtype)
    top = top.at[images, place].set(best.astype(x.dtype), mode="drop")
    scores = -jnp.where(alive, x.max(-1), 0).sum(0)
    return top[..., None, None], scores[:, None, None, None]
