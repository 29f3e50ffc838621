"""Losses that also give the loss of each instance. Only the sum has a gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.loss import at_labels, class_labels, floored_log_softmax


def softmax_losses(
    x: Array,
    labels: Array,
    *,
    axis: int = 1,
    ignore_label: int | None = None,
    normalization: str = "VALID",
    fixed: float = 1.0,
) -> tuple[Array, Array, Array]:
    """Sum of -log(softmax(x)[label]) / normalizer, softmax(x), and each term.

    A label that is no class makes it NaN, `ignore_label` is left out.
    """
    log_p = floored_log_softmax(x, axis, float(np.finfo(np.float32).tiny))
    places, valid = class_labels(labels, x, axis, ignore_label)
    each = jnp.where(valid, -at_labels(log_p, places, axis), 0)
    total = each.sum() / divisor(each, valid.sum(), normalization, fixed)
    softmax = lax.stop_gradient(jax.nn.softmax(x, axis))
    return total, softmax, lax.stop_gradient(each).reshape(labels.shape)


def smooth_l1_losses(
    a: Array,
    b: Array,
    inside: Array | None = None,
    outside: Array | None = None,
    *,
    sigma: float = 1.0,
    normalization: str = "VALID",
    fixed: float = 1.0,
) -> tuple[Array, Array]:
    """Sum of outside * f(inside * (a - b)) / normalizer, and the sum over the channels
    of each instance (N, 1, H, W).

    f(d) is (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). All are
    (N, C) or (N, C, H, W); the weights get no gradient.
    """
    wide = np.promote_types(a.dtype, np.float32)
    shape = (*a.shape, *(1,) * (4 - a.ndim))
    d = a.reshape(shape).astype(wide) - b.reshape(shape).astype(wide)
    if inside is not None:
        d = lax.stop_gradient(inside).reshape(shape).astype(wide) * d
    square = sigma * sigma
    f = jnp.where(
        jnp.abs(d) < 1 / square, 0.5 * square * d * d, jnp.abs(d) - 0.5 / square
    )
    if outside is not None:
        f = lax.stop_gradient(outside).reshape(shape).astype(wide) * f
    each = f.sum(1, keepdims=True)
    count = jnp.asarray(each.size)
    total = each.sum() / divisor(each, count, normalization, fixed)
    return total, lax.stop_gradient(each)


def divisor(each: Array, valid: Array, normalization: str, fixed: float) -> Array:
    """How many losses there are (FULL), how many count (VALID), the first extent
    (BATCH_SIZE), `fixed` (PRE_FIXED) or 1 (NONE); at least 1."""
    counts = {
        "FULL": math.prod(each.shape),
        "VALID": valid,
        "BATCH_SIZE": each.shape[0],
        "PRE_FIXED": fixed,
        "NONE": 1,
    }
    return jnp.maximum(jnp.asarray(counts[normalization], each.dtype), 1)
