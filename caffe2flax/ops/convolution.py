"""Convolutions that XLA runs slowly on CPU, for `nnx.Conv(conv_general_dilated=...)`.

x is (N, *spatial, C), kernel is (*window, C / groups, out). `options` is what else
`nnx.Conv` hands over: dilations, dimension_numbers, precision and so on.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


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

    conv = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    native = functools.partial(conv, feature_group_count=feature_group_count)

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


def pointwise_conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolution with a window of 1: y[n, i] = x[n, i * stride - pad] @ kernel.

    x is (N, *spatial, C), kernel is (*ones, C, out). On CPU one product of matrices,
    up to twice as fast there.
    """

    native = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )

    def product(x: Array, kernel: Array) -> Array:
        x = pad_spatial(x, 0, kernel.shape[:-2], strides, padding)
        x = x[:, *(slice(None, None, stride) for stride in strides)]
        channels, out = x.shape[-1], kernel.shape[-1]
        rows = jnp.matmul(
            x.reshape(-1, channels),
            kernel.reshape(channels, out),
            precision=options.get("precision"),
            preferred_element_type=options.get("preferred_element_type"),
        )
        return rows.reshape(*x.shape[:-1], out)

    if any(d != 1 for d in options.get("lhs_dilation") or ()):
        return native(lhs=x, rhs=kernel)
    y: Array = lax.platform_dependent(x, kernel, cpu=product, default=native)
    return y


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
