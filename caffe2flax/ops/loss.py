"""Losses as Caffe computes them, its gradients included.

Labels are class numbers of any integer or float type, floats cut off as in C. They hold
one class for each entry of x without its class axis, in that order, whatever axes of
extent 1 they have. They get no gradient. A loss is float32 at least.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def softmax_loss(
    x: Array,
    labels: Array,
    *,
    axis: int = -1,
    ignore_label: int | None = None,
    normalization: str = "VALID",
    batch_axes: int = 1,
    class_weights: tuple[float, ...] = (),
) -> Array:
    """Sum of -log(max(softmax(x)[label], smallest float32)) / normalizer.

    A label that is no class makes it NaN, `ignore_label` is left out. Each term is
    multiplied by the weight of its class where there are any.
    """
    log_p = floored_log_softmax(x, axis, float(np.finfo(np.float32).tiny))
    labels, valid = class_labels(labels, x, axis, ignore_label)
    losses = -at_labels(log_p, labels, axis)
    if class_weights:
        weights = jnp.asarray(class_weights, losses.dtype)
        losses = losses * jnp.take(weights, labels, mode="clip")
    return normalized(losses, valid, normalization, batch_axes)


def infogain_loss(
    x: Array,
    labels: Array,
    infogain: Array,
    *,
    axis: int = -1,
    ignore_label: int | None = None,
    normalization: str = "VALID",
    batch_axes: int = 1,
) -> Array:
    """Sum of -infogain[label, k] * log(max(softmax(x)[k], 1e-20)) / normalizer.

    `infogain` has K x K entries in any shape; it gets no gradient.
    """
    log_p = jnp.moveaxis(floored_log_softmax(x, axis, 1e-20), axis, -1)
    labels, valid = class_labels(labels, x, axis, ignore_label)
    matrix = infogain.reshape(x.shape[axis], x.shape[axis]).astype(log_p.dtype)
    rows = jnp.take(matrix, labels, axis=0, mode="fill")
    losses = -(lax.stop_gradient(rows) * log_p).sum(-1)
    return normalized(losses, valid, normalization, batch_axes)


def infogain_of_probabilities(p: Array, labels: Array, infogain: Array) -> Array:
    """Mean over n of the sum of -infogain[label, k] * log(max(p[n, k], 1e-20)) over k.

    p is (N, ...) with all axes in one; `infogain` has K x K entries in any shape and
    gets no gradient.
    """
    flat = p.reshape(p.shape[0], -1).astype(np.promote_types(p.dtype, np.float32))
    labels, _ = class_labels(labels, flat, 1, None)
    matrix = infogain.reshape(flat.shape[1], flat.shape[1]).astype(flat.dtype)
    rows = jnp.take(matrix, labels, axis=0, mode="fill")
    return -(lax.stop_gradient(rows) * jnp.log(floored(flat, 1e-20))).sum(1).mean()


def multinomial_logistic_loss(p: Array, labels: Array) -> Array:
    """Mean of -log(max(p[n, label], 1e-20)), p being (N, ...) with all axes in one."""
    flat = p.reshape(p.shape[0], -1).astype(np.promote_types(p.dtype, np.float32))
    labels, _ = class_labels(labels, flat, 1, None)
    return -jnp.log(floored(at_labels(flat, labels, 1), 1e-20)).mean()


def hinge_loss(x: Array, labels: Array, *, norm: str = "L1") -> Array:
    """Mean over n of the sum over k of max(0, 1 - s x[n, k]), squared if norm is "L2".

    s is 1 for k = label, else -1; x is (N, ...) with all axes in one.
    """
    flat = x.reshape(x.shape[0], -1).astype(np.promote_types(x.dtype, np.float32))
    labels, _ = class_labels(labels, flat, 1, None)
    sign = 1 - 2 * jax.nn.one_hot(labels, flat.shape[1], dtype=flat.dtype)
    margins = jax.nn.relu(1 + sign * flat)
    return (margins if norm == "L1" else jnp.square(margins)).sum(1).mean()


def sigmoid_loss(
    x: Array,
    targets: Array,
    *,
    ignore_label: int | None = None,
    normalization: str = "BATCH_SIZE",
) -> Array:
    """Sum of -t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)) / normalizer.

    A target whose integer part is `ignore_label` is left out.
    """
    x = x.astype(np.promote_types(x.dtype, np.float32))
    t = lax.stop_gradient(targets).reshape(x.shape).astype(x.dtype)
    valid = jnp.ones(x.shape, bool)
    if ignore_label is not None:
        valid = t.astype(jnp.int32) != ignore_label
    above, below = jax.nn.softplus(-x) + x * (1 - t), jax.nn.softplus(x) - x * t
    return normalized(jnp.where(x >= 0, above, below), valid, normalization)


def euclidean_loss(a: Array, b: Array) -> Array:
    """Mean over n of the sum of (a - b)^2 / 2; a and b are (N, ...)."""
    wide = np.promote_types(a.dtype, np.float32)
    difference = a.astype(wide) - b.reshape(a.shape).astype(wide)
    return jnp.square(difference).reshape(a.shape[0], -1).sum(1).mean() / 2


def contrastive_loss(
    a: Array, b: Array, similar: Array, *, margin: float = 1.0, legacy: bool = False
) -> Array:
    """Mean over n of d^2 / 2 for similar pairs, else of max(margin - d, 0)^2 / 2.

    a and b are (N, ...), d is their distance. A pair is similar where the integer part
    of similar[n] is not 0. With `legacy` others have max(margin - d^2, 0) / 2. The
    gradient divides by d + 1e-4 where it is d by rights, as Caffe's does.
    """
    wide = np.promote_types(a.dtype, np.float32)
    difference = a.astype(wide) - b.reshape(a.shape).astype(wide)
    difference = difference.reshape(a.shape[0], -1)

    @jax.custom_jvp
    def distance(v: Array) -> Array:
        return jnp.sqrt(jnp.square(v).sum(1))

    @distance.defjvp
    def differential(v: tuple[Array], dv: tuple[Array]) -> tuple[Array, Array]:
        d = distance(*v)
        return d, (v[0] * dv[0]).sum(1) / (d + 1e-4)

    square = jnp.square(difference).sum(1)
    far = jnp.square(jax.nn.relu(margin - distance(difference)))
    if legacy:
        far = jax.nn.relu(margin - square)
    pairs = lax.stop_gradient(similar).reshape(-1).astype(jnp.int32) != 0
    return jnp.where(pairs, square, far).mean() / 2


def accuracy(
    x: Array,
    labels: Array,
    *,
    axis: int = -1,
    top_k: int = 1,
    ignore_label: int | None = None,
) -> Array:
    """Share of labels whose score is among the `top_k` best; 0 if all are ignored.

    A tie counts against the label.
    """
    hits, _, valid = label_hits(x, labels, axis, top_k, ignore_label)
    return normalized(hits, valid, "VALID")


def accuracy_per_class(
    x: Array,
    labels: Array,
    *,
    axis: int = -1,
    top_k: int = 1,
    ignore_label: int | None = None,
) -> tuple[Array, Array]:
    """The accuracy, and that among the labels of each class, 0 where it has none."""
    hits, labels, valid = label_hits(x, labels, axis, top_k, ignore_label)
    classes = x.shape[axis]
    members = jax.nn.one_hot(labels.reshape(-1), classes, dtype=hits.dtype)
    members = members * valid.reshape(-1, 1).astype(hits.dtype)
    per_class = hits.reshape(-1) @ members / jnp.maximum(members.sum(0), 1)
    return normalized(hits, valid, "VALID"), per_class


def label_hits(
    x: Array, labels: Array, axis: int, top_k: int, ignore_label: int | None
) -> tuple[Array, Array, Array]:
    """1.0 for each label that is among the best `top_k`; the labels; which count."""
    x = x.astype(np.promote_types(x.dtype, np.float32))
    labels, valid = class_labels(labels, x, axis, ignore_label)
    score = jnp.expand_dims(at_labels(x, labels, axis), axis)
    better = (x >= score).sum(axis) - 1
    return ((better < top_k) & valid).astype(x.dtype), labels, valid


def class_labels(
    labels: Array, x: Array, axis: int, ignore_label: int | None
) -> tuple[Array, Array]:
    """Labels as integers in the shape of x without `axis`, and which of them count.

    Those that do not are 0; negative ones become too large, and so are no class either.
    """
    axis = axis % x.ndim
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    whole = lax.stop_gradient(labels).reshape(shape).astype(jnp.int32)
    valid = jnp.ones(shape, bool) if ignore_label is None else whole != ignore_label
    whole = jnp.where(whole < 0, x.shape[axis], whole)
    return jnp.where(valid, whole, 0), valid


def at_labels(x: Array, labels: Array, axis: int) -> Array:
    """x at the label of each place; NaN where that is no class."""
    places = jnp.expand_dims(labels, axis)
    return jnp.take_along_axis(x, places, axis, mode="fill").squeeze(axis)


def floored_log_softmax(x: Array, axis: int, floor: float) -> Array:
    """log(max(softmax(x), floor)), with the gradient of log(softmax(x))."""
    wide = np.promote_types(x.dtype, np.float32)
    return floored(jax.nn.log_softmax(x.astype(wide), axis), math.log(floor))


def floored(x: Array, floor: float) -> Array:
    """max(x, floor), with the gradient of x."""

    @jax.custom_jvp
    def clamp(x: Array) -> Array:
        return jnp.maximum(x, floor)

    clamp.defjvp(lambda x, dx: (clamp(*x), dx[0]))
    return clamp(x)


def normalized(
    losses: Array, valid: Array, normalization: str, batch_axes: int = 1
) -> Array:
    """Sum of the valid losses / max(1, normalizer).

    The normalizer is how many losses there are (FULL), how many are valid (VALID), the
    extent of the first `batch_axes` axes (BATCH_SIZE), or 1 (NONE).
    """
    count = {
        "FULL": math.prod(valid.shape),
        "VALID": valid.sum(),
        "BATCH_SIZE": math.prod(valid.shape[:batch_axes]),
        "NONE": 1,
    }[normalization]
    divisor = jnp.maximum(jnp.asarray(count, losses.dtype), 1)
    return jnp.where(valid, losses, 0).sum() / divisor
