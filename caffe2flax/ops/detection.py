"""From box predictions to detections, in arrays of fixed shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def nms(
    boxes: Array,
    valid: Array,
    threshold: float,
    *,
    eta: float = 1.0,
    limit: int | None = None,
    pixel: float = 0.0,
    share_of: str = "union",
    apart: bool = False,
) -> Array:
    """Which boxes non-maximum suppression keeps, True or False, (K,).

    boxes (K, 4) are x1, y1, x2, y2, the best first; those that are not `valid` (K,) do
    not take part. A box stays unless it overlaps one that stayed by more than the
    threshold, which each box that stays multiplies by `eta` while it is above 0.5.
    At most `limit` stay. `pixel` is 1 where x2 and y2 are inside the box. The overlap
    is a share of the union of both, of the "smaller" one, or of the "first"; with
    `apart`, boxes less than a pixel apart have nothing in common.
    """
    places = jnp.arange(len(boxes))

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        kept, _, _, candidates = state
        return candidates.any() & (kept.sum() < (limit or len(boxes)))

    def keep_next(
        state: tuple[Array, Array, Array, Array],
    ) -> tuple[Array, Array, Array, Array]:
        kept, worst, bound, candidates = state
        i = candidates.argmax()
        box = lax.dynamic_slice_in_dim(boxes, i, 1)
        worst = jnp.maximum(worst, overlap(box, boxes, pixel, share_of, apart))
        if eta < 1:
            bound = jnp.where(bound > 0.5, bound * eta, bound)
        candidates = valid & (places > i) & (worst <= bound)
        return kept | (places == i), worst, bound, candidates

    none = jnp.zeros(len(boxes), bool)
    worst = jnp.zeros(len(boxes), boxes.dtype)
    start = none, worst, jnp.asarray(threshold, boxes.dtype), valid
    kept, *_ = lax.while_loop(unfinished, keep_next, start)
    return kept


def overlap(
    box: Array,
    boxes: Array,
    pixel: float = 0.0,
    share_of: str = "union",
    apart: bool = False,
) -> Array:
    """What `box` (1, 4) has in common with each of `boxes` (K, 4), as a share."""
    low = jnp.maximum(box[:, :2], boxes[:, :2])
    high = jnp.minimum(box[:, 2:], boxes[:, 2:])
    sides = high - low + pixel
    area, areas = ((b[:, 2:] - b[:, :2] + pixel).prod(-1) for b in (box, boxes))
    common = sides.prod(-1)
    whole = {
        "union": area + areas - common,
        "smaller": jnp.minimum(area, areas),
        "first": jnp.broadcast_to(area, areas.shape),
    }[share_of]
    meet = (sides > 0).all(-1)
    if apart:
        meet = (high[:, 0] >= low[:, 0]) & (high[:, 1] > low[:, 1])
    return jnp.where(meet, common / whole, 0)


def detection_output(
    loc: Array,
    conf: Array,
    priors: Array,
    *,
    num_classes: int,
    code_type: str = "CORNER",
    share_location: bool = True,
    background_label: int = 0,
    variance_encoded_in_target: bool = False,
    confidence_threshold: float = float(np.finfo(np.float32).min),
    nms_threshold: float = 0.3,
    eta: float = 1.0,
    top_k: int | None = None,
    keep_top_k: int | None = None,
) -> Array:
    """SSD's detections, (1, 1, N * R, 7): image, class, score, x1, y1, x2, y2 a row.

    loc is (N, P * 4), or (N, P * classes * 4) unless `share_location`; conf is (N,
    P * classes); priors is (1 or N, 2, P * 4), boxes and variances. Each class but the
    background has its boxes above the confidence threshold, the `top_k` best of them,
    thinned out by `nms`; each image its `keep_top_k` best in all (R; without
    `keep_top_k` as many as there can be), in order of class, then score.

    Rows that are left stand behind the detections, all -1. Where there are no
    detections at all, the first N rows are -1 but for the number of their image.
    """
    wide = np.promote_types(loc.dtype, np.float32)
    loc, conf, priors = (lax.stop_gradient(x).astype(wide) for x in (loc, conf, priors))
    count = priors.shape[2] // 4
    prior, variance = jnp.moveaxis(priors.reshape(-1, 2, 1, count, 4), 1, 0)
    if variance_encoded_in_target:
        variance = jnp.ones_like(variance)
    located = 1 if share_location else num_classes
    offsets = loc.reshape(-1, count, located, 4).transpose(0, 2, 1, 3)
    boxes = decode_boxes(offsets, prior, variance, code_type)
    return best_boxes(
        boxes,
        conf,
        num_classes=num_classes,
        background_label=background_label,
        confidence_threshold=confidence_threshold,
        nms_threshold=nms_threshold,
        eta=eta,
        top_k=top_k,
        keep_top_k=keep_top_k,
    )


def best_boxes(
    boxes: Array,
    conf: Array,
    *,
    num_classes: int,
    background_label: int,
    confidence_threshold: float,
    nms_threshold: float,
    eta: float,
    top_k: int | None,
    keep_top_k: int | None,
) -> Array:
    """The rows of `detection_output`, (1, 1, N * R, 3 + M), for boxes (N, 1 or classes,
    P, M) whose first four numbers are their corners."""
    images, located, count, numbers = boxes.shape
    classes = np.array([c for c in range(num_classes) if c != background_label])
    scores = conf.reshape(-1, count, num_classes).transpose(0, 2, 1)[:, classes]
    boxes = boxes if located == 1 else boxes[:, classes]

    best = count if top_k is None or top_k < 0 else min(top_k, count)
    ranked = jnp.where(scores > confidence_threshold, scores, -jnp.inf)
    ranked, places = lax.top_k(ranked, best)
    valid = ranked > confidence_threshold
    boxes = jnp.take_along_axis(boxes, places[..., None], 2)
    kept = jax.vmap(jax.vmap(lambda b, v: nms(b[:, :4], v, nms_threshold, eta=eta)))(
        boxes, valid
    )
    rows = len(classes) * best
    kept, ranked = kept.reshape(images, rows), ranked.reshape(images, rows)
    values = [
        jnp.broadcast_to(jnp.arange(images)[:, None], kept.shape).astype(boxes.dtype),
        jnp.broadcast_to(np.repeat(classes, best), kept.shape).astype(boxes.dtype),
        ranked,
        *jnp.moveaxis(boxes.reshape(images, rows, numbers), -1, 0),
    ]
    table = jnp.stack(values, -1)
    if keep_top_k is not None and 0 <= keep_top_k < rows:
        order = jnp.argsort(jnp.where(kept, -ranked, jnp.inf), stable=True)
        chosen = jnp.sort(order[:, : max(keep_top_k, 1)])
        table = jnp.take_along_axis(table, chosen[..., None], 1)
        kept = jnp.take_along_axis(kept, chosen, 1) & (keep_top_k > 0)
    return packed(table, kept)


def without_background(conf: Array, objects: Array, threshold: float) -> Array:
    """conf (N, P * classes), the first class certain where objects[..., 1] (N, P * 2)
    is below the threshold."""
    found = lax.stop_gradient(objects.reshape(len(objects), -1, 2)[..., 1:])
    scores = conf.reshape(*found.shape[:2], -1)
    first = jnp.zeros_like(scores).at[..., 0].set(1)
    return jnp.where(found < threshold, first, scores).reshape(conf.shape)


def refine_priors(
    priors: Array,
    offsets: Array,
    *,
    code_type: str = "CORNER",
    variance_encoded_in_target: bool = False,
) -> Array:
    """priors (1, 2, P * 4) moved by offsets (N, P * 4): (N, 2, P * 4)."""
    wide = np.promote_types(offsets.dtype, np.float32)
    prior, variance = priors[0].astype(wide).reshape(2, 1, -1, 4)
    scale = jnp.ones_like(variance) if variance_encoded_in_target else variance
    moves = lax.stop_gradient(offsets).astype(wide).reshape(len(offsets), -1, 4)
    moved = decode_boxes(moves, prior, scale, code_type)
    spread = jnp.broadcast_to(variance, moved.shape)
    return jnp.stack([moved, spread], 1).reshape(len(offsets), 2, -1)


def packed(table: Array, kept: Array) -> Array:
    """The rows of `table` (N, R, M) that are kept (N, R), as (1, 1, N * R, M).

    Others are -1 and stand last; where all are, the first N have their image's number.
    """
    images, rows = kept.shape
    flat = kept.reshape(images * rows)
    table = table.reshape(images * rows, table.shape[-1])
    table = jnp.where(flat[:, None], table, -1)[jnp.argsort(~flat, stable=True)]
    number = jnp.arange(images * rows)
    nothing = jnp.where(number < images, number, -1).astype(table.dtype)
    image = jnp.where(flat.any(), table[:, 0], nothing)
    return jnp.concatenate([image[:, None], table[:, 1:]], 1)[None, None]


def decode_boxes(offsets: Array, prior: Array, variance: Array, code: str) -> Array:
    """Corners of the boxes that `offsets` (..., 4) move away from prior (..., 4)."""
    shifts = offsets * variance
    if code == "CORNER":
        return prior + shifts
    size = prior[..., 2:] - prior[..., :2]
    if code == "CORNER_SIZE":
        return prior + shifts * jnp.concatenate([size, size], -1)
    centre = (prior[..., :2] + prior[..., 2:]) / 2 + shifts[..., :2] * size
    half = jnp.exp(shifts[..., 2:]) * size / 2
    return jnp.concatenate([centre - half, centre + half], -1)
