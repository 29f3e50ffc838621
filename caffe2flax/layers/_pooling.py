"""The calls of pooling functions. Sizes and windows have one entry for each axis; x is
the argument as source text."""

from __future__ import annotations

from math import prod

from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.window import CEIL, Padding, Window, overhang

LARGE = 64
"""The largest window, in elements, that is summed in half precision."""


def max_pool(
    x: str, spatial: tuple[Window, ...], padding: Padding, *, masked: bool = False
) -> str:
    """nnx.max_pool, unless a window has no pixel: nnx.max_pool gives -inf for it, Caffe
    the lowest float."""
    name = "max_pool" if padding.empty else "nnx.max_pool"
    name = "max_pool_with_mask" if masked else name
    return f"{name}({_window(x, spatial, padding.emitted, whole=masked)})"


def avg_pool(
    x: str,
    spatial: tuple[Window, ...],
    padding: Padding,
    sizes: Shape,
    outs: Shape,
    *,
    pixels_only: bool = False,
) -> str:
    """nnx.avg_pool where there are no pads, or only those of Caffe's rounding, which do
    not count; otherwise a function that counts them as Caffe does. The latter adds in
    float32, as bfloat16 is too coarse for large windows. With `pixels_only` no pad
    counts."""
    over = overhangs(sizes, spatial, outs)
    pad = pads(spatial)
    if pixels_only and any(map(any, padding.caffe)):
        given = _window(x, spatial, padding.emitted)
        return f"nnx.avg_pool({given}, count_include_pad=False)"
    large = prod(w.kernel for w in spatial) > LARGE
    if large or (any(over) and (any(w.pads for w in spatial) or padding.empty)):
        kernel, stride = _numbers(spatial)
        counted = arguments(x, kernel, stride, pad=pad, overhang=over)
        return f"avg_pool({counted})"
    given = _window(x, spatial, padding.emitted)
    counts = ", count_include_pad=False" if any(over) else ""
    return f"nnx.avg_pool({given}{counts})"


def pads(spatial: tuple[Window, ...]) -> tuple[int | tuple[int, int], ...]:
    """On each axis the pad of both ends, or a pair where they differ."""
    return tuple(w.pad if w.pad == w.high else (w.pad, w.high) for w in spatial)


def overhangs(sizes: Shape, spatial: tuple[Window, ...], outs: Shape) -> Shape:
    """On each axis the pixels that the last window reads beyond image and pad."""
    return tuple(map(overhang, sizes, spatial, outs))


def _window(
    x: str, spatial: tuple[Window, ...], padding: object, *, whole: bool = False
) -> str:
    """x, window, strides, padding; without Flax's defaults unless `whole`."""
    kernel, stride = _numbers(spatial)
    named = "CEIL" if padding == CEIL else unless(padding, "VALID")
    if whole or any(w.stride > 1 for w in spatial):
        return arguments(x, kernel, stride, *([named] if named else []))
    return arguments(x, kernel, padding=named)


def _numbers(spatial: tuple[Window, ...]) -> tuple[str, str]:
    kernel, stride = tuple(w.kernel for w in spatial), tuple(w.stride for w in spatial)
    return literal(kernel), literal(stride)
