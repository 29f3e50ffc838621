"""Convolutions that XLA runs slowly on CPU, for `nnx.Conv(conv_general_dilated=...)`.

x is (N, *spatial, C), kernel is (*window, C / groups, out). `options` is what else
`nnx.Conv` hands over: dilations, dimension_numbers, precision and so on.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.ops.linear import split_dot


def grouped_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int,
    **options: Any,
) -> Array:
    """Convolution in groups.

    x is (N, *spatial, C), kernel is (*window, C / groups, out). On CPU a convolution
    for each group, 2 to 9 times faster there.
    """

    conv = functools.partial(fast, strides=strides, padding=padding, **options)
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        feature_group_count=feature_group_count,
        **options,
    )

    def split(x: Array, kernel: Array) -> Array:
        channels = jnp.split(x, feature_group_count, axis=-1)
        kernels = jnp.split(kernel, feature_group_count, axis=-1)
        return jnp.concatenate(list(map(conv, channels, kernels)), axis=-1)

    y: Array = lax.platform_dependent(x, kernel, cpu=split, default=native)
    return y


def narrow_grouped_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int,
    **options: Any,
) -> Array:
    """Convolution in many groups of few channels.

    x is (N, *spatial, C), kernel is (*window, C / groups, out). On CPU neighbouring
    groups make one of up to 32 channels, with zeros between them in the kernel: 2 to 8
    times faster there, for finite x.
    """
    *window, channels, out = kernel.shape
    most = max(1, 32 // channels)
    merged = max(m for m in range(1, most + 1) if feature_group_count % m == 0)
    groups = feature_group_count // merged

    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        feature_group_count=feature_group_count,
        **options,
    )

    def blocks(x: Array, kernel: Array) -> Array:
        ones = (1,) * len(window)
        own = jnp.eye(merged, dtype=kernel.dtype).reshape(
            *ones, merged, 1, 1, merged, 1
        )
        each = kernel.reshape(*window, 1, channels, groups, merged, -1)
        kernel = (each * own).reshape(*window, merged * channels, out)
        return grouped_conv(
            x, kernel, strides, padding, feature_group_count=groups, **options
        )

    y: Array = lax.platform_dependent(x, kernel, cpu=blocks, default=native)
    return y


def depthwise_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int,
    **options: Any,
) -> Array:
    """y[n, i, o] = sum over w of x[n, i * stride + w - pad, o // m] * kernel[w, 0, o].

    x is (N, *spatial, C), kernel is (*window, 1, C * m): each channel makes m of its
    own, in its place. On CPU a sum of shifted slices, 8 to 40 times faster there.
    """
    window, out = kernel.shape[:-2], kernel.shape[-1]
    dtype = options.get("preferred_element_type") or x.dtype

    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        feature_group_count=feature_group_count,
        **options,
    )

    def shifted(x: Array, kernel: Array) -> Array:
        dilation = options.get("rhs_dilation") or (1,) * len(window)
        extent = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
        wide = np.promote_types(dtype, np.float32)
        x = pad_spatial(x.astype(wide), 0, extent, strides, padding)
        x = jnp.repeat(x, out // feature_group_count, axis=-1)
        taps = kernel.astype(wide).reshape(-1, *(1,) * len(window), 1, out)
        spans = [
            (size - e) // s * s + 1
            for size, e, s in zip(x.shape[1:-1], extent, strides, strict=True)
        ]
        terms = []
        for i, offset in enumerate(np.ndindex(*window)):
            low = [o * d for o, d in zip(offset, dilation, strict=True)]
            high = [o + span for o, span in zip(low, spans, strict=True)]
            cut = lax.slice(x, (0, *low, 0), (x.shape[0], *high, out), (1, *strides, 1))
            terms.append(cut * taps[i])
        return sum(terms[1:], terms[0]).astype(dtype)

    if any(d != 1 for d in options.get("lhs_dilation") or ()):
        return native(lhs=x, rhs=kernel)
    y: Array = lax.platform_dependent(x, kernel, cpu=shifted, default=native)
    return y


def fast(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolution in the way that suits its shapes.

    x is (N, *spatial, C), kernel is (*window, C, out). On CPU a window of 1 is one
    product of matrices, and so are few pixels; long strides over few channels and few
    outputs have ways of their own: up to 4 times faster there.
    """
    window, (channels, out) = kernel.shape[:-2], kernel.shape[-2:]
    native = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    dilations = [options.get("lhs_dilation"), options.get("rhs_dilation")]
    on_cpu: Callable[..., Array] | None = None
    if any(d != 1 for dilation in dilations for d in dilation or ()):
        return native(lhs=x, rhs=kernel)
    if math.prod(window) == 1:
        on_cpu = pointwise_conv
    elif len(window) == 2 and channels <= 4 and 1 < min(strides) > window[0] / 3:
        on_cpu = row_conv
    elif is_small(x, strides):
        on_cpu = patch_conv
    elif len(window) == 2 and channels > 4 and (out <= 64 or x.shape[1] <= 14):
        on_cpu = wide_conv
    if on_cpu is None:
        return native(lhs=x, rhs=kernel)
    own = functools.partial(on_cpu, strides=strides, padding=padding, **options)
    y: Array = lax.platform_dependent(x, kernel, cpu=own, default=native)
    return y


def pointwise_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolution with a window of 1, as one product of matrices.

    y[n, i] = x[n, i * stride - pad] @ kernel; x is (N, *spatial, C), kernel is
    (*ones, C, out).
    """
    x = pad_spatial(x, 0, kernel.shape[:-2], strides, padding)
    x = x[:, *(slice(None, None, stride) for stride in strides)]
    channels, out = kernel.shape[-2:]
    y = split_dot(
        x.reshape(-1, channels),
        kernel.reshape(channels, out),
        (((1,), (0,)), ((), ())),
        precision=options.get("precision"),
        preferred_element_type=options.get("preferred_element_type"),
    )
    return y.reshape(*x.shape[:-1], out)


def is_small(x: Array, strides: Sequence[int]) -> bool:
    """Whether a convolution of x makes so few pixels that windows are soon copied."""
    sizes = (x.shape[0], *x.shape[1:-1])
    known = all(isinstance(size, int) for size in sizes)
    return known and math.prod(sizes) <= 100 * math.prod(strides)


def patch_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolution as one product of matrices, each pixel's window in a row.

    x is (N, *spatial, C), kernel is (*window, C, out).
    """
    *window, channels, out = kernel.shape
    x = pad_spatial(x, 0, window, strides, padding)
    for axis in range(len(window), 0, -1):
        slices = window_slices(x, window[axis - 1], strides[axis - 1], axis)
        x = jnp.concatenate(slices, axis=-1)
    y = split_dot(
        x.reshape(-1, math.prod(window) * channels),
        kernel.reshape(-1, out),
        (((1,), (0,)), ((), ())),
        precision=options.get("precision"),
        preferred_element_type=options.get("preferred_element_type"),
    )
    return y.reshape(*x.shape[:-1], out)


def row_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolution over two axes, as one over the second with windows of the first as
    channels.

    x is (N, H, W, C), kernel is (h, w, C, out).
    """
    height, width, channels, out = kernel.shape
    x = pad_spatial(x, 0, (height, width), strides, padding)
    rows = jnp.concatenate(window_slices(x, height, strides[0], 1), axis=-1)
    y = lax.conv_general_dilated(
        rows.reshape(-1, *rows.shape[2:]),
        kernel.swapaxes(0, 1).reshape(width, height * channels, out),
        strides[1:],
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision=options.get("precision"),
        preferred_element_type=options.get("preferred_element_type"),
    )
    return y.reshape(*rows.shape[:2], *y.shape[1:])


def wide_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolution over two axes, by way of a y that is wider than x.

    x is (N, H, W, C), kernel is (h, w, C, out). Of the two libraries that XLA has for
    this on CPU, it takes the one that is faster for few outputs or pixels only then.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            x.shape[1:-1], kernel.shape[:-2], strides, padding
        )
    rows, (left, right) = padding
    same = max(strides) == 1 and left + right == kernel.shape[1] - 1
    y = lax.conv_general_dilated(
        x, kernel, strides, (rows, (left, right + same)), **options
    )
    return y[:, :, : x.shape[2]] if same else y


def pad_spatial(
    x: Array,
    value: float | Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> Array:
    """x (N, *spatial, C) with `value` around, as padding asks for such windows.

    Raises:
        ValueError: a window exceeds the padded x.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    pads = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = lax.pad(x, jnp.asarray(value, x.dtype), pads)
    if any(size < w for size, w in zip(x.shape[1:-1], window, strict=True)):
        raise ValueError(f"a window of {tuple(window)} exceeds {x.shape}, padded")
    return x


def window_slices(x: Array, window: int, stride: int, axis: int) -> list[Array]:
    """For every w in the window, x[i * stride + w] over all i of an axis."""
    span = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, w, w + span, stride, axis) for w in range(window)]
