"""What losses and scores have in common: labels, and the fields of `loss_param`."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.layer import Array, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params

MODES = ("FULL", "VALID", "BATCH_SIZE", "NONE")

LEGACY_AXES = 4
"""Caffe's older accessors (num, channels, height, width) abort on more axes."""


@dataclass(frozen=True, slots=True)
class Averaging:
    """Which labels count in a loss, and what their sum is divided by."""

    ignore_label: int | None = None
    normalization: str = "VALID"

    @classmethod
    def parse(cls, given: Params, default: str = "VALID", older: bool = True) -> Self:
        """The message `loss_param`; `older`: its deprecated field `normalize` may
        replace `normalization`."""
        mode = given.choice("normalization", *MODES, default=default)
        normalize = given.optional("normalize", bool)
        if normalize is not None and not older:
            given.error("normalize", "this layer takes normalization, not normalize")
        elif normalize is not None and not given.has("normalization"):
            mode = "VALID" if normalize else "BATCH_SIZE"
        return cls(given.optional("ignore_label", int), mode)

    def of(self, losses: Array, labels: Array, batch_axes: int) -> Array:
        """The sum of the losses with a label that counts, / max(1, normalizer)."""
        valid = np.trunc(labels) != self.ignore_label
        count = {
            "FULL": losses.size,
            "VALID": int(np.count_nonzero(valid)),
            "BATCH_SIZE": prod(losses.shape[:batch_axes]),
            "NONE": 1,
        }[self.normalization]
        return np.asarray(losses[valid].sum() / max(1, count))


OVER_VALID = Averaging()
OVER_BATCH = Averaging(normalization="BATCH_SIZE")


def loss_param(params: Params) -> Params:
    """The message `loss_param` of the layer that has the message `params`."""
    return (params.parent or params).sub("loss_param")


def check_labels(x: Shape, labels: Shape, axis: int) -> int:
    """The class axis of x, not negative. Raises ConversionError unless there is one
    label for each entry of x without that axis."""
    axis = canonical_axis(axis, len(x))
    wanted = (*x[:axis], *x[axis + 1 :])
    if prod(wanted) != prod(labels):
        raise ConversionError(
            f"scores of shape {x} with classes along axis {axis} need {prod(wanted)} "
            f"labels, of shape {wanted} or with axes of 1 besides; they have {labels}"
        )
    return axis


def check_batch(*inputs: Shape) -> None:
    """Raises ConversionError unless the first two bottoms have the same first
    extent."""
    for shape in inputs[:2]:
        canonical_axis(0, len(shape))
    if inputs[0][0] != inputs[1][0]:
        raise ConversionError(
            "data and labels must have the same first extent, not "
            f"{inputs[0]} and {inputs[1]}"
        )


def check_legacy(*inputs: Shape) -> None:
    """Raises ConversionError where a blob has more axes than Caffe's older layers
    take."""
    for shape in inputs:
        if len(shape) > LEGACY_AXES:
            raise ConversionError(
                f"this layer takes blobs of up to {LEGACY_AXES} axes, not {shape}"
            )


def some_labels(
    noise: np.random.Generator, axis: int, x: Shape, labels: Shape
) -> Array:
    """Random labels among the classes along an axis of x."""
    return noise.integers(0, x[axis], labels)


def check_one_each(x: Shape, labels: Shape) -> None:
    """Raises ConversionError unless each x[n] has one label."""
    if prod(labels) != x[0]:
        raise ConversionError(
            f"needs one label for each of {x[0]}, of shape ({x[0]},) or with axes of 1 "
            f"behind; they have {labels}"
        )


def row_major(x: Operand, without: int | None = None) -> Layout:
    """A layout in which the entries of x are in Caffe's order after the axis `without`
    is removed: the layout of x itself, if only axes of extent 1 are elsewhere."""
    moved = [
        axis
        for axis in x.layout.axes
        if axis != without and (x.shape[axis] != 1 or x.is_batch(axis))
    ]
    ordered = moved == sorted(moved)
    return x.layout.plain() if ordered else Layout.caffe(len(x.shape))


def paired(a: Operand, b: Operand) -> tuple[Layout, Layout]:
    """Layouts in which two blobs of one size have their entries in the same order,
    batch first."""
    if a.shape == b.shape and a.layout.axes[0] == 0 and not a.layout.orders[0]:
        shared = a.layout if a.layout == b.layout else a.layout.plain()
        return shared, shared
    return row_major(a), row_major(b)


def at_label(x: Array, labels: Array, axis: int) -> Array:
    """x at each label: the shape of x without `axis`."""
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    places = np.trunc(labels).astype(np.int64).reshape(rest)
    inside = np.clip(places, 0, x.shape[axis] - 1)
    entries = np.take_along_axis(x, np.expand_dims(inside, axis), axis)
    return np.where(inside == places, np.squeeze(entries, axis), np.nan)
