"""DetectNet's clustering of boxes, in arrays of fixed shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def cluster_boxes(
    coverage: Array,
    boxes: Array,
    *,
    cell: tuple[int, int],
    grid: tuple[int, int],
    coverage_threshold: float,
    group_threshold: int,
    eps: float,
    min_height: int,
) -> tuple[Array, ...]:
    """A table (N, 50, 5) for each class: x1, y1, x2, y2, log(members) a row, 0 behind,
    rounded to half precision.

    coverage is (N, H, W, classes), boxes (N, H, W, 4) from each cell, which is `cell`
    (width, height) large; the first rows and columns of the `grid` count. Cells of
    enough coverage propose their box: corner, width and height in whole numbers.
    Similar ones are a group, whose mean is taken if it has more members than
    `group_threshold` and is not inside of a larger group's.
    """
    coverage, boxes = (
        lax.stop_gradient(x[:, : grid[1], : grid[0]]) for x in (coverage, boxes)
    )
    images, height, width, classes = coverage.shape
    y, x = np.mgrid[:height, :width] * np.array(cell[::-1])[:, None, None]
    origin = np.stack([x, y], -1).reshape(1, -1, 2).astype(np.int32)
    flat = boxes.reshape(images, -1, 4).astype(jnp.float32)
    low = jnp.floor(flat[..., :2]).astype(jnp.int32) + origin
    high = jnp.ceil(flat[..., :2]).astype(jnp.int32) + origin
    size = jnp.trunc(flat[..., 2:] - flat[..., :2]).astype(jnp.int32)
    whole = jnp.concatenate([jnp.where(low >= 0, low, high), size], -1)
    cells = coverage.reshape(images, -1, classes)
    return tuple(
        lax.map(
            lambda x: grouped(x[0], x[1], group_threshold, eps, min_height),
            (whole, cells[..., number] >= coverage_threshold),
        )
        for number in range(classes)
    )


def grouped(
    boxes: Array,
    valid: Array,
    group_threshold: int,
    eps: float,
    min_height: int,
    rows: int = 50,
) -> Array:
    """The means of the groups of boxes (K, 4) that are valid (K,): corner, width and
    height."""
    count = len(boxes)
    root = groups(similar(boxes, eps) & valid[:, None] & valid[None], valid)
    members = jax.ops.segment_sum(valid.astype(jnp.int32), root, count + 1)[:count]
    sums = jax.ops.segment_sum(jnp.where(valid[:, None], boxes, 0), root, count + 1)
    # Inverses and logarithms are those of numpy, so that they are rounded as there.
    number = np.arange(1, count + 1)
    inverse = jnp.asarray(np.float32(1) / number.astype(np.float32))
    place = jnp.maximum(members - 1, 0)
    means = jnp.round(sums[:count].astype(jnp.float32) * inverse[place][:, None])
    means = means.astype(jnp.int32)
    large = members > group_threshold
    inside = contained(means, eps) & large[None]
    larger = (members[None] > jnp.maximum(3, members)[:, None]) | (members < 3)[:, None]
    inside = inside & larger & ~jnp.eye(count, dtype=bool)
    kept = large & ~inside.any(1) & (means[:, 3] >= min_height)
    logs = jnp.asarray(np.log(number), jnp.float32)[place]
    corners = jnp.concatenate([means[:, :2], means[:, :2] + means[:, 2:]], 1)
    table = jnp.concatenate([corners.astype(jnp.float32), logs[:, None]], 1)
    table = jnp.where(kept[:, None], table, 0)[jnp.argsort(~kept, stable=True)]
    table = jnp.pad(table, ((0, max(rows - count, 0)), (0, 0)))[:rows]
    return lax.reduce_precision(table, exponent_bits=5, mantissa_bits=10)


def groups(linked: Array, valid: Array) -> Array:
    """The first member of the group of each of K things, K for those not valid (K,),
    where (K, K) tells which are linked."""
    count = len(valid)
    linked = linked | jnp.eye(count, dtype=bool)

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        root, _ = state
        near = jnp.where(linked, root[None], count).min(1)
        near = jnp.minimum(near, near[near])
        return near, (near != root).any()

    start = jnp.arange(count), jnp.asarray(True)
    root, _ = lax.while_loop(lambda state: state[1], spread, start)
    return jnp.where(valid, root, count)


def similar(boxes: Array, eps: float) -> Array:
    """Which pairs of boxes (x, y, width, height), in whole numbers, have sides that
    differ by at most eps * half of the smaller width and height."""
    least = jnp.minimum(boxes[:, None, 2:], boxes[None, :, 2:]).sum(-1)
    most = looked_up(least, np.floor(eps * np.arange(2**13) * 0.5), eps * 0.5)
    corners = jnp.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    apart = jnp.abs(corners[:, None] - corners[None]).max(-1)
    return (apart <= most) & (least >= 0)


def contained(boxes: Array, eps: float) -> Array:
    """Whether box i is inside of box j, but for eps of its width and height: (K, K)."""
    slack = looked_up(
        jnp.abs(boxes[:, 2:]), np.rint(np.arange(2**13) * eps), eps
    ) * jnp.sign(boxes[:, 2:])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    above = low[:, None] >= (low - slack)[None]
    below = high[:, None] <= (high + slack)[None]
    return (above & below).all(-1)


def looked_up(x: Array, table: np.ndarray, factor: float) -> Array:
    """table[x] for whole numbers, which numpy has multiplied in double precision, and
    x * factor beyond its end."""
    known = jnp.asarray(table, jnp.int32)[jnp.clip(x, 0, len(table) - 1)]
    far = jnp.round(x.astype(jnp.float32) * factor).astype(jnp.int32)
    return jnp.where(x < len(table), known, far)
