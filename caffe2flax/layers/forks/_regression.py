"""What layers of MS-CNN and Cascade R-CNN have in common."""

from __future__ import annotations

import numpy as np

from caffe2flax.ir.layer import Array
from caffe2flax.ir.params import Params

Four = tuple[float, ...]
MEANS: Four = (0.0, 0.0, 0.0, 0.0)
STDS: Four = (1.0, 1.0, 1.0, 1.0)
SHARES = {"IOU": "union", "IOMU": "smaller", "IOFU": "first"}


def normal(params: Params) -> tuple[Four, Four]:
    """bbox_mean and bbox_std of `bbox_reg_param`."""
    params.ignore("cls_aware")
    means, stds = params.all("bbox_mean", float), params.all("bbox_std", float)
    if not means or not stds:
        return MEANS, STDS
    for name, values in (("bbox_mean", means), ("bbox_std", stds)):
        if len(values) != 4:
            params.error(name, f"{name} needs 4 values, not {len(values)}")
    if not all(std > 0 for std in stds):
        params.error("bbox_std", f"bbox_std must be positive, not {stds}")
    return means, stds


def trimmed(top: Array) -> Array:
    """Rows (image, x1, y1, x2, y2), without repetitions of the last one, or with a
    score behind, without those of -1."""
    rows = top.reshape(len(top), -1)
    if rows.shape[1] == 6:
        scored: Array = top[rows[:, 0] >= 0]
        return scored
    new = np.any(rows[1:] != rows[:-1], 1)
    return top[: np.max(np.nonzero(new)[0], initial=-1) + 2]


def overlap(a: Array, b: Array, share: str) -> float:
    """What two boxes whose borders are inside them have in common, as a share."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    if high[0] < low[0] or high[1] <= low[1]:
        return 0.0
    one, other = (a[2:] - a[:2] + 1).prod(), (b[2:] - b[:2] + 1).prod()
    common = (high - low + 1).prod()
    whole = {"union": one + other - common, "smaller": min(one, other)}
    return float(common / whole.get(share, one))
