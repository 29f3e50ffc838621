"""DigitsLeNet, converted from stats_digits.net.prototxt by caffe2flax 0.1.0.

Blobs are channels last: N, H, W, C where Caffe has N, C, H, W.

data is prepared as Caffe does: scaled by 0.0039215686.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, PrecisionLike
from jax import Array, lax
from safetensors.flax import load_file

CEIL = ((0, 1), (0, 1))  # Caffe rounds pooled sizes up


class DigitsLeNet(nnx.Module):
    """data (N, 28, 28, 1) -> ip2 (N, 10)."""

    def __init__(
        self,
        *,
        num_classes: int = 10,
        dropout: float = 0.25,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(
            nnx.Conv,
            kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "uniform"),
            dtype=dtype,
            precision=precision,
            rngs=rngs,
        )
        linear = partial(
            nnx.Linear,
            kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "uniform"),
            dtype=dtype,
            precision=precision,
            rngs=rngs,
        )

        self.conv1 = conv(1, 8, (5, 5), padding="VALID")
        self.conv2 = conv(8, 16, (5, 5), feature_group_count=2)
        self.ip1 = linear(784, 48)  # rows in H, W, C order
        self.drop3 = nnx.Dropout(dropout)
        self.ip2 = linear(48, num_classes)

    def __call__(self, data: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        check_shape("data", data, "N", 28, 28, 1)
        conv1 = nnx.relu(self.conv1(data))  # (N, 24, 24, 8)
        pool1 = nnx.max_pool(conv1, (3, 3), (2, 2), CEIL)  # (N, 12, 12, 8)

        norm1 = lrn(pool1, size=5, alpha=0.0001, beta=0.75)
        conv2 = nnx.relu(self.conv2(norm1))  # (N, 12, 12, 16)
        # (N, 7, 7, 16)
        pool2 = avg_pool(conv2, (3, 3), (2, 2), pad=(1, 1), overhang=(1, 1))

        # (N, 48)
        ip1 = self.drop3(nnx.relu(self.ip1(lax.collapse(pool2, 1))), rngs=rngs)
        return self.ip2(ip1)  # (N, 10)

    def losses(
        self, data: Array, label: Array, *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """What Caffe prints in training, by blob: losses, unweighted, and scores."""
        check_shape("label", label, "N")
        ip2 = self(data, rngs=rngs)
        return {"loss": softmax_loss(ip2, label)}

    @staticmethod
    def total_loss(losses: dict[str, Array]) -> Array:
        """What Caffe minimises, from what `losses` returns."""
        return losses["loss"]

    def metrics(
        self, data: Array, label: Array, *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """What Caffe prints in a test, by blob."""
        check_shape("label", label, "N")
        ip2 = self(data, rngs=rngs)
        return {"loss": softmax_loss(ip2, label), "accuracy": accuracy(ip2, label)}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ) -> Self:
        """With another `num_classes`, `ip2` starts fresh."""
        model = cls(**options, rngs=rngs or nnx.Rngs(0))
        fresh = ("ip2",) if "num_classes" in options else ()
        path = path or Path(__file__).with_suffix(".safetensors")
        load_trained(model, path, fresh)
        model.eval()
        return model


def preprocess(images: Array) -> Array:
    """Images (N, H, W, 1; gray; 0 to 255) as `data` wants them."""
    x = jnp.asarray(images, jnp.float32)
    return x * 0.0039215686


def check_shape(name: str, x: Array, *sizes: int | str) -> None:
    """ValueError unless x has these sizes; a letter stands for any size."""
    pairs = zip(sizes, x.shape, strict=False)
    if len(sizes) == x.ndim and all(isinstance(n, str) or n == m for n, m in pairs):
        return
    turned = x.ndim == len(sizes) == 4 and x.shape[1] == sizes[3] != x.shape[3]
    hint = "; is this N, C, H, W, not N, H, W, C?" if turned else ""
    hint = "; is the batch axis missing?" if x.ndim + 1 == len(sizes) else hint
    wanted = ", ".join(map(str, sizes))
    raise ValueError(f"{name} must be ({wanted}), not {x.shape}{hint}")


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


def lrn(x: Array, *, size: int, alpha: float, beta: float, k: float = 1.0) -> Array:
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels) ** beta."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))  # squares are large
    beside = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    squares = jnp.pad(jnp.square(wide), beside)
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return (wide * (k + alpha / size * near) ** -beta).astype(x.dtype)


def avg_pool(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pad: tuple[int | tuple[int, int], ...],
    overhang: tuple[int, ...],
) -> Array:
    """y[n, i, c] = sum over w of x[n, i * stride + w - pad, c] / size of that window.

    x is (N, *spatial, C) between zeros: `pad` of them at both or (low, high) ends of an
    axis count in the size, `overhang` of them beyond its high end do not.
    """
    ends = [p if isinstance(p, tuple) else (p, p) for p in pad]
    pairs = [(low, high + o) for (low, high), o in zip(ends, overhang, strict=True)]
    padded = [n + sum(both) for n, both in zip(x.shape[1:-1], ends, strict=True)]
    sizes = np.ones(())
    for n, w, s, o in zip(padded, window, strides, overhang, strict=True):
        starts = np.arange(0, n + o - w + 1, s)
        sizes = np.multiply.outer(sizes, np.minimum(w, n - starts) / w)
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    y: Array = nnx.avg_pool(wide, window, strides, pairs)
    return (y / jnp.asarray(sizes[None, ..., None], wide.dtype)).astype(x.dtype)


def load_trained(model: nnx.Module, path: str | Path, fresh: Sequence[str]) -> None:
    """Fills `model` from a file, which must fit; layers of `fresh` that have another
    width there stay as they were drawn."""
    file = next(Path(path).glob(f"{Path(__file__).stem}.safetensors"), path)  # a folder
    weights, leaves, wrong = load_file(file), list[Any](), list[str]()
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        name, shape = ".".join(map(str, keys)), variable.shape
        array = weights.pop(name, None)
        found = "missing" if array is None else array.shape
        if keys[0] in fresh and found[:-1] == shape[:-1] and found != shape:
            continue
        if array is None or found != shape or array.dtype.kind in "biuc":
            kind = "" if array is None else f" {array.dtype}"
            wrong.append(f"{name} is {found}{kind} in the file, not {shape}")
            continue
        leaves.append((keys, array.astype(variable.dtype)))
    if wrong := wrong + [f"{name} is unknown" for name in weights]:
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong)}")
    nnx.update(model, nnx.from_flat_state(leaves))
