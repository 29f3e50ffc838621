"""nnx.Conv, sooner."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from caffe2flax.ops.convolution import fast
from caffe2flax.ops.onednn import conv_by_onednn


class Conv(nnx.Conv):
    """nnx.Conv(x) + other, and max(that, 0) where `relu` is true.

    x is (N, *spatial, C); there may be an other, of the shape of the result. On CPU one
    call of oneDNN where XLA has that, else `conv_general_dilated`.
    """

    def __init__(self, *args: Any, relu: bool = False, **options: Any):
        options.setdefault("conv_general_dilated", fast)
        super().__init__(*args, **options)
        self.relu = relu

    def __call__(self, inputs: Array, other: Array | None = None) -> Array:
        rank = len(self.kernel_size)
        if inputs.ndim != rank + 2:
            return super().__call__(inputs)
        given = [self.kernel[...], self.bias and self.bias[...], other]
        arrays = [inputs, *(array for array in given if array is not None)]
        dtype = self.dtype or jnp.result_type(*arrays)
        last = (0, rank + 1, *range(1, rank + 1))
        return conv_by_onednn(
            conv_add_relu,
            *(array.astype(dtype) for array in arrays),
            strides=for_each_axis(self.strides, rank),
            padding=conv_padding(self.padding, rank),
            rhs_dilation=for_each_axis(self.kernel_dilation, rank),
            feature_group_count=self.feature_group_count,
            dimension_numbers=lax.ConvDimensionNumbers(
                last, (rank + 1, rank, *range(rank)), last
            ),
            biased=self.bias is not None,
            conv=self.conv_general_dilated,
            relu=self.relu,
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
    conv: Callable[..., Array],
    relu: bool,
    biased: bool,
    **options: Any,
) -> Array:
    """conv(x, kernel, **options) + others, and max(that, 0) where `relu` is true."""
    y = conv(x, kernel, **options)
    for other in others:
        y = y + other.reshape((1,) * (y.ndim - other.ndim) + other.shape)
    return nnx.relu(y) if relu else y
