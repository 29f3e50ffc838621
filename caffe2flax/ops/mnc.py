"""Masks and regions of MNC."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.proposal import shifted_boxes


def resize_mask(x: Array, size: tuple[int, int]) -> Array:
    """x (N, H, W, C) at index * input / output, interpolated: (N, *size, C).

    What is up to half a pixel beyond the middle of the last pixel is as there, and 0
    farther out.
    """
    shares = [
        jnp.asarray(corner_shares(length, bins), x.dtype)
        for length, bins in zip(x.shape[1:3], size, strict=True)
    ]
    return jnp.einsum("ph,qw,nhwc->npqc", *shares, x, precision=lax.Precision.HIGHEST)


def corner_shares(length: int, bins: int) -> np.ndarray:
    """What each of `length` pixels adds to each of `bins` values, (bins, length)."""
    point = np.arange(bins) * (length / bins)
    place = np.minimum(point, length - 1)
    distance = np.abs(place[:, None] - np.arange(length))
    inside = (point <= length - 0.5)[:, None]
    shares: np.ndarray = np.maximum(1 - distance, 0) * inside
    return shares


def bridge_regions(rois: Array, deltas: Array, scores: Array, im_info: Array) -> Array:
    """Regions (R, 5) moved by those shifts of deltas (R, 4 C) that belong to the class
    with the largest of the scores (R, C), and cut off at the borders of the image."""
    rois, deltas, scores, info = (
        lax.stop_gradient(x).astype(jnp.float32)
        for x in (rois.reshape(-1, 5), deltas, scores, im_info.reshape(-1))
    )
    best = scores.argmax(1)[:, None, None]
    own = jnp.take_along_axis(deltas.reshape(len(rois), -1, 4), best, 1)[:, 0]
    moved = shifted_boxes(rois[:, 1:], own[None])[0]
    edge = jnp.stack([info[1], info[0], info[1], info[0]]) - 1
    moved = jnp.maximum(jnp.minimum(moved, edge[None]), 0)
    return jnp.concatenate([jnp.zeros_like(moved[:, :1]), moved], 1)
