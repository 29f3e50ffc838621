"""Forms of SSD's detections in forks."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.detection import best_boxes, decode_boxes


def joined_pieces(
    *blobs: Array, classes: int, boxes: Sequence[int], order: str = "cells"
) -> tuple[Array, Array, Array]:
    """Locations (1, P * 4), scores (1, P * classes) and priors (1, 2, P * 4) from
    pieces: n blobs of scores, n of locations, and all priors.

    A piece has so many of `boxes` a cell. In the order "cells" it is flat, as in SSD.
    Otherwise boxes come before cells: scores are (classes, boxes, cells), locations
    (boxes, 4, cells), or (4, boxes, cells) in the order "coordinates".
    """
    n = len(blobs) // 2
    scores, locations, priors = blobs[:n], blobs[n:-1], blobs[-1]
    if order == "cells":
        loc = jnp.concatenate([x.reshape(1, -1) for x in locations], 1)
        return loc, jnp.concatenate([x.reshape(1, -1) for x in scores], 1), priors
    conf = [
        x.reshape(classes, k, -1).transpose(1, 2, 0).reshape(1, -1)
        for x, k in zip(scores, boxes, strict=True)
    ]
    found: list[Array] = []
    own_priors: list[Array] = []
    place = 0
    for x, k in zip(locations, boxes, strict=True):
        if order == "coordinates":
            moves = x.reshape(4, k, -1).transpose(1, 2, 0)
        else:
            moves = x.reshape(k, 4, -1).transpose(0, 2, 1)
        found.append(moves.reshape(1, -1))
        own = lax.slice_in_dim(priors, place, place + x.size, axis=2)
        own = own.reshape(2, -1, k, 4).transpose(0, 2, 1, 3)
        own_priors.append(own.reshape(1, 2, -1))
        place += x.size
    return (
        jnp.concatenate(found, 1),
        jnp.concatenate(conf, 1),
        jnp.concatenate(own_priors, 2),
    )


def polygon_output(
    loc: Array,
    conf: Array,
    priors: Array,
    *,
    num_classes: int,
    background_label: int = 0,
    confidence_threshold: float = float(np.finfo(np.float32).min),
    nms_threshold: float = 0.3,
    eta: float = 1.0,
    top_k: int | None = None,
    keep_top_k: int | None = None,
) -> Array:
    """`detection_output` with four corners behind each box, (1, 1, N * R, 15).

    loc is (N, P * 12): four numbers for the box, and for each corner of the prior, from
    the upper left one on clockwise, its shift as a share of the prior's size.
    """
    wide = np.promote_types(loc.dtype, np.float32)
    loc, conf, priors = (lax.stop_gradient(x).astype(wide) for x in (loc, conf, priors))
    prior, variance = priors[0].reshape(2, 1, 1, -1, 4)
    moves = loc.reshape(len(loc), 1, -1, 12)
    boxes = decode_boxes(moves[..., :4], prior, variance, "CENTER_SIZE")
    corners = prior[..., np.array([0, 1, 2, 1, 2, 3, 0, 3])]
    size = prior[..., 2:] - prior[..., :2]
    scale = jnp.tile(variance[..., :2] * size, 4)
    return best_boxes(
        jnp.concatenate([boxes, corners + scale * moves[..., 4:]], -1),
        conf,
        num_classes=num_classes,
        background_label=background_label,
        confidence_threshold=confidence_threshold,
        nms_threshold=nms_threshold,
        eta=eta,
        top_k=top_k,
        keep_top_k=keep_top_k,
    )
