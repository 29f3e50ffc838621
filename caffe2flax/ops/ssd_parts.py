"""SSD's last layer in two, and ICNet's pyramid in one."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from caffe2flax.ops.detection import best_boxes, decode_boxes
from caffe2flax.ops.resize import resize_linear


def decode_priors(
    priors: Array,
    offsets: Array,
    *,
    code_type: str = "CORNER",
    variance_encoded_in_target: bool = False,
) -> Array:
    """Corners (1, 1, P, 4) of priors (1, 2, P * 4) moved by offsets (1, P * 4)."""
    prior, variance = priors.reshape(2, 1, 1, -1, 4)
    scale = jnp.ones_like(variance) if variance_encoded_in_target else variance
    return decode_boxes(offsets.reshape(prior.shape), prior, scale, code_type)


def sort_detections(
    boxes: Array,
    scores: Array,
    *,
    num_classes: int,
    background_label: int = 0,
    confidence_threshold: float = float(np.finfo(np.float32).min),
    nms_threshold: float = 0.3,
    eta: float = 1.0,
    top_k: int | None = None,
    keep_top_k: int | None = None,
) -> Array:
    """`detection_output` of boxes (1, 1, P, 4) that are decoded already."""
    wide = np.promote_types(boxes.dtype, np.float32)
    return best_boxes(
        lax.stop_gradient(boxes).astype(wide),
        lax.stop_gradient(scores).reshape(1, -1).astype(wide),
        num_classes=num_classes,
        background_label=background_label,
        confidence_threshold=confidence_threshold,
        nms_threshold=nms_threshold,
        eta=eta,
        top_k=top_k,
        keep_top_k=keep_top_k,
    )


def add_pyramid(
    x: Array,
    windows: tuple[tuple[int, int], ...],
    strides: tuple[tuple[int, int], ...],
) -> Array:
    """x (N, H, W, C) plus its mean over windows, each enlarged with corners aligned.

    The last window of an axis may hang over its end.
    """
    size = x.shape[1:3]
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    total = x
    for window, stride in zip(windows, strides, strict=True):
        over = [
            (0, max(-(-(n - w) // s) * s + w - n, 0))
            for n, w, s in zip(size, window, stride, strict=True)
        ]
        pooled = nnx.avg_pool(wide, window, stride, over, count_include_pad=False)
        pooled = pooled.astype(x.dtype)
        total = total + resize_linear(pooled, size, align_corners=True)
    return total
