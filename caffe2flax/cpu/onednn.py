"""Products and convolutions by oneDNN, which XLA's wheels for x86 processors contain
but do not call by themselves.

Arguments that oneDNN does not accept end the process, and some that it accepts give
wrong numbers: so shapes are checked here, and known faults are listed in EXCLUDED. Call
`available` first: it returns whether the calls work in this process.

All arrays are float32. x is (N, *spatial, C), kernel is (*window, C / groups, out).
A ReLU computed by oneDNN turns NaN into 0, unlike jax.nn.relu.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from caffe2flax.cpu.probe import (
    COLUMNS,
    ROWS,
    available,
    convolve,
    multiply,
    pack,
    prepare,
)

__all__ = [
    "EXCLUDED",
    "available",
    "conv",
    "pack",
    "packed_product",
    "prepare",
    "product",
    "products",
    "suits_conv",
    "turned_product",
]


@dataclass(frozen=True)
class Form:
    """A convolution without its arrays. padding: (low, high) for each axis."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    rhs_dilation: tuple[int, ...]
    groups: int

    @property
    def extents(self) -> list[int]:
        """The extent of a window, with dilation, along each axis."""
        pairs = zip(self.kernel, self.rhs_dilation, strict=False)
        return [(w - 1) * d + 1 for w, d in pairs]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        each = zip(self.x[1:-1], self.padding, self.extents, self.strides, strict=True)
        sizes = [(n + sum(pair) - e) // s + 1 for n, pair, e, s in each]
        return (self.x[0], *sizes, self.kernel[-1])


def negative_padding(form: Form) -> bool:
    """The configuration has no negative numbers: one would end the process."""
    return min(map(min, form.padding)) < 0


def one_column(form: Form) -> bool:
    """One input channel, one window along the last axis, a stride above 1 there.

    If such a window is shorter than the axis, the stride of the axis before is 1 and
    there is one group, results contain uninitialized memory and differ from run to run.
    More than that is excluded: with dilation, groups, only one axis or a window as long
    as the axis no fault is known.
    """
    one = form.shape[-2] == 1 and form.kernel[-2] == 1
    return one and form.strides[-1] > 1


EXCLUDED: dict[str, Callable[[Form], bool]] = {
    "negative padding": negative_padding,
    "one column": one_column,
}


def form_of(
    x: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
) -> Form | None:
    """The form; None where the arguments do not fit each other, or where a size is 0 or
    unknown."""
    axes, groups = len(x) - 2, feature_group_count
    lists = (strides, padding, rhs_dilation, kernel[:-2])
    if axes not in (1, 2, 3) or any(len(numbers) != axes for numbers in lists):
        return None
    sizes = (*x, *kernel, *strides, *rhs_dilation, groups)
    pads = [n for low, high in padding for n in (low, high)]
    if not all(isinstance(n, int | np.integer) for n in (*sizes, *pads)):
        return None
    if min(sizes) < 1 or x[-1] != kernel[-2] * groups or kernel[-1] % groups:
        return None
    pairs = tuple((low, high) for low, high in padding)
    form = Form(
        tuple(x), tuple(kernel), tuple(strides), pairs, tuple(rhs_dilation), groups
    )
    return form if min(form.shape) > 0 else None


def suits_conv(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
) -> bool:
    """Whether `conv` accepts such a convolution, fast or not."""
    form = form_of(
        x_shape,
        kernel_shape,
        strides=strides,
        padding=padding,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
    )
    return form is not None and not any(wrong(form) for wrong in EXCLUDED.values())


def conv(
    x: Array,
    kernel: Array,
    *others: Array,
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    biased: bool,
    relu: bool,
) -> Array:
    """The convolution plus others, and max(that, 0) where `relu` is true.

    others: a bias (out,) where `biased` is true, then arrays of the result's shape.
    Raises ValueError where `suits_conv` is false and for others of wrong shapes,
    TypeError for arrays that are not float32.
    """
    given: dict[str, Any] = {"strides": strides, "padding": padding}
    given |= {"rhs_dilation": rhs_dilation, "feature_group_count": feature_group_count}
    form = form_of(x.shape, kernel.shape, **given)
    if form is None or not suits_conv(x.shape, kernel.shape, **given):
        raise ValueError(
            f"no convolution for oneDNN: {x.shape}, {kernel.shape}, {given}"
        )
    check(form.shape, x, kernel, *others, biased=biased)
    fused = {"biased": biased, "relu": relu}
    if math.prod(form.extents) == form.groups == 1 and not np.any(padding):
        x = x[:, *(slice(None, None, stride) for stride in strides)]
        kernel = kernel.reshape(kernel.shape[-2:])
        rows = [other.reshape(-1, form.shape[-1]) for other in others[biased:]]
        others = (*others[:biased], *rows)
        y = product(x.reshape(-1, x.shape[-1]), kernel, *others, **fused)
        return y.reshape(form.shape)
    return convolve(
        x,
        kernel,
        *others,
        shape=form.shape,
        strides=strides,
        padding=padding,
        rhs_dilation=rhs_dilation,
        groups=feature_group_count,
        **fused,
    )


def product(x: Array, kernel: Array, *others: Array, biased: bool, relu: bool) -> Array:
    """x (rows, k) @ kernel (k, out) plus others, and max(that, 0) where `relu` is true.

    others: a bias (out,) where `biased` is true, then arrays (rows, out). Raises
    ValueError for shapes that do not fit each other or are empty, TypeError for arrays
    that are not float32.
    """
    if x.ndim != 2 or kernel.ndim != 2 or x.shape[1] != kernel.shape[0]:
        raise ValueError(f"no product: {x.shape} by {kernel.shape}")
    shape = (x.shape[0], kernel.shape[1])
    check(shape, x, kernel, *others, biased=biased)
    return multiply(x, kernel, *others, shape=shape, biased=biased, relu=relu)


def products(x: Array, kernel: Array) -> Array:
    """x (batch, m, k) @ kernel (batch, k, n). Raises the same errors as `product`."""
    if x.ndim != 3 or kernel.ndim != 3 or x.shape[::2] != kernel.shape[:2]:
        raise ValueError(f"no products: {x.shape} by {kernel.shape}")
    shape = (*x.shape[:2], kernel.shape[2])
    check(shape, x, kernel, biased=False)
    return multiply(x, kernel, shape=shape)


def turned_product(x: Array, kernel: Array) -> Array:
    """x (k, rows) transposed @ kernel (k, out). Raises the same errors as
    `product`."""
    if x.ndim != 2 or kernel.ndim != 2 or x.shape[0] != kernel.shape[0]:
        raise ValueError(f"no product: {x.shape}, turned, by {kernel.shape}")
    shape = (x.shape[1], kernel.shape[1])
    check(shape, x, kernel, biased=False)
    return multiply(x, kernel, shape=shape, turned=True)


def packed_product(
    x: Array, packed: Array, *others: Array, out: int, biased: bool, relu: bool
) -> Array:
    """`product` of x (rows, k) and a kernel (k, out) that `pack` has prepared.

    Not for a single row or a single column: for these oneDNN reads a plain matrix, into
    which the blocks are converted at each call.
    """
    if x.ndim != 2:
        raise ValueError(f"no matrix: {x.shape}")
    blocks = -(-x.shape[1] // ROWS) * -(-out // COLUMNS)
    if packed.shape != (blocks * ROWS * COLUMNS,):
        raise ValueError(f"no product: {x.shape} by {out} columns in {packed.shape}")
    shape = (x.shape[0], out)
    check(shape, x, packed, *others, biased=biased)
    fused = {"biased": biased, "relu": relu}
    if 1 in shape:
        return multiply(
            x, unpack(packed, x.shape[1], out), *others, shape=shape, **fused
        )
    return multiply(x, packed, *others, shape=shape, packed=True, **fused)


def unpack(packed: Array, k: int, out: int) -> Array:
    """The kernel (k, out) that was packed."""
    blocks = packed.reshape(-(-out // COLUMNS), -1, COLUMNS)
    return blocks.transpose(1, 0, 2).reshape(blocks.shape[1], -1)[:k, :out]


def check(
    shape: Sequence[int], x: Array, kernel: Array, *others: Array, biased: bool
) -> None:
    """Checks that all arrays are float32 and not empty, and that others can be added to
    an array of `shape`."""
    arrays = (x, kernel, *others)
    if any(array.dtype != np.float32 for array in arrays):
        raise TypeError(f"not float32: {[str(array.dtype) for array in arrays]}")
    if 0 in (*x.shape, *kernel.shape):
        raise ValueError(f"nothing to multiply: {x.shape} by {kernel.shape}")
    wanted = [(shape[-1],)] * biased + [tuple(shape)] * (len(others) - biased)
    if [other.shape for other in others] != wanted:
        shapes = ", ".join(str(other.shape) for other in others)
        raise ValueError(f"these cannot be added to {tuple(shape)}: {shapes}")
