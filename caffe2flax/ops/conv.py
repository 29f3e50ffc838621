"""nnx.Conv, sooner."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from caffe2flax.ops.convolution import fast
from caffe2flax.ops.onednn import conv_sizes, either, onednn_conv
from caffe2flax.ops.winograd import add_relu, add_tiled, tile_size, tiled_conv


class Conv(nnx.Conv):
    """nnx.Conv(x) + other, and max(that, 0) where `relu` is true.

    x is (N, *spatial, C); there may be an other, of the shape of the result. On CPU one
    call of oneDNN where XLA has that, else `conv_general_dilated`. `tiled`, where it is
    not None, is the kernel prepared for Winograd's algorithm: (tile, tile, C, out).
    """

    def __init__(self, *args: Any, relu: bool = False, **options: Any):
        groups = options.get("feature_group_count", 1)
        way = fast if groups == 1 else lax.conv_general_dilated
        options.setdefault("conv_general_dilated", way)
        super().__init__(*args, **options)
        self.relu = relu
        self.tiling: Callable[..., int] | None = None
        self.tiled: Array | None = None

    def __call__(self, inputs: Array, other: Array | None = None) -> Array:
        others = [] if other is None else [other]
        rank = len(self.kernel_size)
        named = isinstance(self.padding, str) and self.padding not in ("SAME", "VALID")
        if inputs.ndim != rank + 2 or named or self.mask is not None:
            return add_relu(super().__call__(inputs), *others, relu=self.relu)
        weights = [p[...] for p in (self.kernel, self.bias) if p is not None]
        arrays = [inputs, *weights, *others]
        dtype = self.dtype or jnp.result_type(*arrays)
        last = (0, rank + 1, *range(1, rank + 1))
        return conv_by_onednn(
            conv_add_relu,
            *(array.astype(dtype) for array in arrays),
            strides=for_each_axis(self.strides, rank),
            padding=conv_padding(self.padding, rank),
            lhs_dilation=for_each_axis(self.input_dilation, rank),
            rhs_dilation=for_each_axis(self.kernel_dilation, rank),
            feature_group_count=self.feature_group_count,
            dimension_numbers=lax.ConvDimensionNumbers(
                last, (rank + 1, rank, *range(rank)), last
            ),
            precision=self.precision,
            biased=self.bias is not None,
            conv=self.conv_general_dilated,
            relu=self.relu,
            tiling=self.tiling,
            tiled=self.tiled,
        )


def for_each_axis(value: Any, rank: int) -> tuple[int, ...]:
    """A number for each axis, of one for all or one for each."""
    return tuple(np.broadcast_to(value, rank).tolist())


def conv_padding(padding: Any, rank: int) -> str | tuple[tuple[int, int], ...]:
    """What nnx.Conv takes as padding, a pair for each axis where it is no name."""
    if isinstance(padding, str):
        return padding
    each = np.reshape(padding, (-1, 2 if np.ndim(padding) == 2 else 1))
    return tuple(
        (int(low), int(high)) for low, high in np.broadcast_to(each, (rank, 2))
    )


def conv_add_relu(
    x: Array,
    kernel: Array,
    *others: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    conv: Callable[..., Array],
    relu: bool,
    biased: bool,
    **options: Any,
) -> Array:
    """conv(x, kernel, strides, padding, **options) + others, and max(that, 0) where
    `relu` is true."""
    y = conv(x, kernel, strides, padding, **options)
    return add_relu(y, *others, relu=relu)


def conv_by_onednn(
    native: Callable[..., Array],
    x: Array,
    kernel: Array,
    *others: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    tiling: Callable[..., int] | None = None,
    tiled: Array | None = None,
    **options: Any,
) -> Array:
    """`native(x, kernel, *others, strides=strides, padding=padding, **options)`, which
    is a convolution, in programs for this process's CPU by oneDNN, and by Winograd's
    algorithm where the kernel is prepared for it, `tiled`, or `tiling` says so.

    others: what is added to it, first a bias (out) where `biased` is true, and then
    what has its shape. options: also those of `lax.conv_general_dilated`, and `relu`,
    whether max(that, 0) is taken.
    """
    all_known = all(isinstance(n, int) and n > 0 for n in (*x.shape, *kernel.shape))
    given: dict[str, Any] = {"strides": strides, "padding": padding}
    if not all_known or not 2 < x.ndim < 6:
        return native(x, kernel, *others, **given, **options)
    dilation = options.get("rhs_dilation") or (1,) * len(strides)
    extents = [(w - 1) * d + 1 for w, d in zip(kernel.shape, dilation, strict=False)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], extents, strides, padding)
    pads = tuple((low, high) for low, high in padding)
    sizes = conv_sizes(x.shape[1:-1], extents, strides, pads)
    if not suits_onednn(x, kernel, extents, pads, sizes, options):
        return native(x, kernel, *others, **given, **options)
    given = {"strides": tuple(strides), "padding": pads, **options}
    steps = (*strides, *dilation, options.get("feature_group_count", 1))
    simple = max(steps) == 1
    if simple and tiled is not None:
        relu, window = options.get("relu", False), len(kernel)
        return add_tiled(x, tiled, *others, window=window, padding=pads, relu=relu)
    tiles = simple and (tiling or tile_size)(x, kernel, pads)
    library = tiled_conv if tiles else onednn_conv
    shape = (x.shape[0], *sizes, kernel.shape[-1])
    return either(library, native, shape, x, kernel, *others, **given)


def suits_onednn(
    x: Array,
    kernel: Array,
    extents: Sequence[int],
    pads: Sequence[tuple[int, int]],
    sizes: Sequence[int],
    options: Any,
) -> bool:
    """Whether oneDNN computes such a convolution, and sooner than XLA does: not where
    large kernels are read for few pixels, nor where each channel has so little to do
    that calling another core takes longer."""
    wanted = options.get("preferred_element_type") or x.dtype
    if {x.dtype, kernel.dtype, np.dtype(wanted)} != {np.dtype(np.float32)}:
        return False
    if any(d != 1 for d in options.get("lhs_dilation") or ()):
        return False
    if 1 < options.get("feature_group_count", 1) == x.shape[-1] and x.size < 2**18:
        return False
    if any(not 0 <= p < e for e, pair in zip(extents, pads, strict=True) for p in pair):
        return False
    pixels, weights = x.shape[0] * math.prod(sizes), math.prod(kernel.shape)
    return min(sizes) > 0 and (pixels >= 100 or weights <= 2**15)
