"""SSD, converted from ssd.prototxt by caffe2flax 0.1.0.

Blobs are channels last: N, H, W, C where Caffe has N, C, H, W.
"""

import itertools
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


class SSD(nnx.Module):
    """data (N, 160, 160, 3) -> detection_out (1, 1, N*8, 7)."""

    def __init__(
        self,
        *,
        num_classes: int = 3,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        self.num_classes = num_classes
        conv = partial(nnx.Conv, dtype=dtype, precision=precision, rngs=rngs)
        normalize = partial(Normalize, rngs=rngs)

        self.conv1 = conv(
            3,
            16,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
            strides=2,
            padding=1,
        )
        self.conv2 = conv(
            16,
            32,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
        )
        self.conv3 = conv(
            32,
            64,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
        )
        self.conv4 = conv(
            64,
            64,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
            strides=2,
            padding=1,
        )
        self.conv5 = conv(
            64,
            64,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
            strides=2,
            padding=1,
        )
        self.conv4_norm = normalize((64,), scale_init=nnx.initializers.constant(20.0))
        self.conv4_norm_mbox_loc = conv(
            64, 16, (3, 3), kernel_init=nnx.initializers.normal(0.01)
        )
        self.conv4_norm_mbox_conf = conv(
            64,
            4 * num_classes,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
        )
        self.conv5_mbox_loc = conv(
            64, 16, (3, 3), kernel_init=nnx.initializers.normal(0.01)
        )
        self.conv5_mbox_conf = conv(
            64,
            4 * num_classes,
            (3, 3),
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
        )

    def __call__(self, data: Array) -> Array:
        check_shape("data", data, "N", "H", "W", 3)
        conv1 = nnx.relu(self.conv1(data))  # (N, 80, 80, 16)
        pool1 = nnx.max_pool(conv1, (2, 2), (2, 2))  # (N, 40, 40, 16)

        conv2 = nnx.relu(self.conv2(pool1))  # (N, 40, 40, 32)
        pool2 = nnx.max_pool(conv2, (2, 2), (2, 2))  # (N, 20, 20, 32)

        conv3 = nnx.relu(self.conv3(pool2))  # (N, 20, 20, 64)
        conv4 = nnx.relu(self.conv4(conv3))  # (N, 10, 10, 64)
        conv5 = nnx.relu(self.conv5(conv4))  # (N, 5, 5, 64)
        conv4_norm = self.conv4_norm(conv4)
        conv4_norm_mbox_loc = self.conv4_norm_mbox_loc(conv4_norm)  # (N, 10, 10, 16)
        conv4_norm_mbox_loc_flat = lax.collapse(conv4_norm_mbox_loc, 1)  # (N, 1600)
        conv4_norm_mbox_conf = self.conv4_norm_mbox_conf(conv4_norm)  # (N, 10, 10, 12)
        conv4_norm_mbox_conf_flat = lax.collapse(conv4_norm_mbox_conf, 1)  # (N, 1200)
        # (1, 2, 1600)
        conv4_norm_mbox_priorbox = prior_boxes(
            conv4_norm.shape[1:3],
            data.shape[1:3],
            min_sizes=(32,),
            max_sizes=(64,),
            aspect_ratios=(2.0,),
            flip=True,
            variances=(0.1, 0.1, 0.2, 0.2),
        )
        conv5_mbox_loc = self.conv5_mbox_loc(conv5)  # (N, 5, 5, 16)
        conv5_mbox_loc_flat = lax.collapse(conv5_mbox_loc, 1)  # (N, 400)
        conv5_mbox_conf = self.conv5_mbox_conf(conv5)  # (N, 5, 5, 12)
        conv5_mbox_conf_flat = lax.collapse(conv5_mbox_conf, 1)  # (N, 300)
        # (1, 2, 400)
        conv5_mbox_priorbox = prior_boxes(
            conv5.shape[1:3],
            data.shape[1:3],
            min_sizes=(64,),
            max_sizes=(120,),
            aspect_ratios=(2.0,),
            flip=True,
            variances=(0.1, 0.1, 0.2, 0.2),
        )
        # (N, 2000)
        mbox_loc = jnp.concatenate(
            [conv4_norm_mbox_loc_flat, conv5_mbox_loc_flat], axis=-1
        )
        # (N, 1500)
        mbox_conf = jnp.concatenate(
            [conv4_norm_mbox_conf_flat, conv5_mbox_conf_flat], axis=-1
        )
        # (1, 2, 2000)
        mbox_priorbox = jnp.concatenate(
            [conv4_norm_mbox_priorbox, conv5_mbox_priorbox], axis=-1
        )
        # (N, 500, 3)
        mbox_conf_reshape = mbox_conf.reshape(len(mbox_conf), -1, self.num_classes)
        mbox_conf_softmax = nnx.softmax(mbox_conf_reshape)
        mbox_conf_flatten = lax.collapse(mbox_conf_softmax, 1)  # (N, 1500)
        # (1, 1, N*8, 7)
        return detection_output(
            mbox_loc,
            mbox_conf_flatten,
            mbox_priorbox,
            num_classes=self.num_classes,
            code_type="CENTER_SIZE",
            confidence_threshold=0.01,
            nms_threshold=0.45,
            top_k=100,
            keep_top_k=8,
        )

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **options: Any) -> Self:
        """In eval mode; with another `num_classes`, `conv4_norm_mbox_conf` and
        `conv5_mbox_conf` start fresh."""
        model = nnx.eval_shape(lambda: cls(**options, rngs=nnx.Rngs(0)))
        heads = ("conv4_norm_mbox_conf", "conv5_mbox_conf")
        fresh = heads if "num_classes" in options else ()
        load_weights(model, path or Path(__file__).with_suffix(".safetensors"), fresh)
        model.eval()
        return model


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


def load_weights(model: nnx.Module, path: str | Path, fresh: Any = ()) -> None:
    """Fills `model` from a file, which must fit; layers `fresh` may start anew."""
    file = next(Path(path).glob(f"{Path(__file__).stem}.safetensors"), path)  # a folder
    weights, leaves = load_file(file), list[Any]()
    wrong = [f"{k} is {x.dtype}" for k, x in weights.items() if x.dtype.kind in "biuc"]
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        name, shape = ".".join(map(str, keys)), variable.shape
        found = getattr(array := weights.pop(name, None), "shape", "missing")
        if keys[0] in fresh and found[:-1] == shape[:-1] and found != shape:
            array = nnx.initializers.normal(0.01)(nnx.Rngs(0).params(), shape)
        elif found != shape:
            wrong.append(f"{name} is {found} in the file, not {shape}")
        leaves.append((keys, array, variable.dtype))
    if wrong := wrong + [f"{name} is unknown" for name in weights]:
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong)}")
    nnx.update(model, nnx.from_flat_state([(k, x.astype(t)) for k, x, t in leaves]))


class Normalize(nnx.Module):
    """x / sqrt(sum of x^2 + epsilon) * scale; the sum is along `axis`, the channels.

    With `across_spatial` it goes over all axes but the first. `scale` has one entry for
    each channel, or none: shape is (C,) or ().
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        axis: int = -1,
        across_spatial: bool = False,
        epsilon: float = 1e-10,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        rngs: nnx.Rngs,
    ):
        self.axis = axis
        self.across_spatial = across_spatial
        self.epsilon = epsilon
        self.scale = nnx.Param(scale_init(rngs.params(), shape))

    def __call__(self, x: Array) -> Array:
        axes = tuple(range(1, x.ndim)) if self.across_spatial else self.axis
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        scale = self.scale[...].astype(wide.dtype)
        own = self.axis % x.ndim if scale.ndim else None
        scale = jnp.expand_dims(scale, tuple(i for i in range(x.ndim) if i != own))
        return scaled_unit(wide, scale, axes, self.epsilon).astype(x.dtype)


def scaled_unit(
    x: Array, scale: Array, axes: int | tuple[int, ...], epsilon: float
) -> Array:
    """x / sqrt(sum of x^2 over `axes` + epsilon) * scale.

    The gradient of x is Caffe's, which applies `scale` behind the projection where by
    rights it stands before: they differ where channels have scales of their own.
    """

    @jax.custom_jvp
    def unit(x: Array, scale: Array) -> Array:
        total = jnp.square(x).sum(axes, keepdims=True) + epsilon
        return x * lax.rsqrt(total) * scale

    @unit.defjvp
    def differential(
        given: tuple[Array, Array], d: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        x, scale = given
        inverse = lax.rsqrt(jnp.square(x).sum(axes, keepdims=True) + epsilon)
        y, v = x * inverse, scale * d[0]
        projected = inverse * (v - y * (y * v).sum(axes, keepdims=True))
        return y * scale, projected + y * d[1]

    return unit(x, scale)


def prior_boxes(
    features: Sequence[int],
    image: Sequence[int],
    *,
    min_sizes: tuple[int, ...],
    max_sizes: tuple[int, ...] = (),
    aspect_ratios: tuple[float, ...] = (),
    variances: tuple[float, ...] = (0.1,),
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    flip: bool = False,
    inside: bool = False,
    halve_smallest: bool = False,
    denser: bool = False,
) -> Array:
    """Boxes around each cell of a feature map, a constant (1, 2, H * W * boxes * 4).

    features and image are (H, W). Row 0 has x1, y1, x2, y2 of each box as shares of the
    image, cut off at its edges if `inside`; row 1 has their variances. For each of
    min_sizes a cell has a square of that size, one of the geometric mean with its
    max_size, and a box for each ratio, and its inverse if `flip`. If `denser`, each box
    comes twice, the second time around the lower edge of the cell.
    """
    ratios = [r for a in aspect_ratios for r in ((a, 1 / a) if flip else (a,))]
    sizes = []
    for i, small in enumerate(min_sizes):
        sizes.append([small / 2 if halve_smallest else small] * 2)
        sizes += [[(small * large) ** 0.5] * 2 for large in max_sizes[i : i + 1]]
        sizes += [[small * r**0.5, small / r**0.5] for r in ratios]
    steps = step or (image[0] / features[0], image[1] / features[1])
    lower = (0, (1 - offset) * steps[0])
    shifts = [(0, 0), lower] if denser else [(0, 0)]
    boxes = [(*size, *shift) for size in sizes for shift in shifts]
    return placed_boxes(features, image, boxes, variances, steps, offset, inside)


def placed_boxes(
    features: Sequence[int],
    image: Sequence[int],
    boxes: Sequence[tuple[float, ...]],
    variances: tuple[float, ...],
    steps: tuple[float, float],
    offset: float,
    inside: bool,
) -> Array:
    """The constant of `prior_boxes` for boxes (width, height, x, y) in each cell, x and
    y from its middle."""
    half, shifts = np.array(boxes)[:, :2] / 2, np.array(boxes)[:, 2:]
    ys, xs = ((np.arange(n) + offset) * s for n, s in zip(features, steps, strict=True))
    cells = np.array([(x, y) for y, x in itertools.product(ys, xs)])[:, None]
    corners = np.concatenate([cells + shifts - half, cells + shifts + half], -1)
    corners = corners / np.array([image[1], image[0]] * 2)
    if inside:
        corners = corners.clip(0, 1)
    spread = np.resize(np.array(variances), corners.size)
    return jnp.asarray(np.stack([corners.ravel(), spread])[None], jnp.float32)
