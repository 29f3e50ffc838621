"""Window arithmetic against recorded sizes, and against Caffe's loops walked here."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caffe2flax.errors import ConversionError
from caffe2flax.ir.window import (
    INT_MAX,
    Padding,
    Window,
    conv_output,
    deconv_output,
    overhang,
    pool_output,
    pool_windows,
    reconcile,
    same_pads,
)

ROWS = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "shapes.json").read_text(encoding="utf-8")
)
FLT_MAX = float(np.finfo(np.float32).max)

sizes = st.integers(1, 24)
conv_axes = st.tuples(
    sizes,
    st.builds(
        Window,
        kernel=st.integers(1, 7),
        stride=st.integers(1, 5),
        pad=st.integers(0, 4),
        dilation=st.integers(1, 3),
    ),
)
pool_axes = st.tuples(
    sizes, st.integers(1, 7), st.integers(1, 5), st.integers(0, 6)
).map(lambda a: (a[0], Window(a[1], a[2], min(a[3], a[1] - 1))))
flat_pool_axes = st.tuples(sizes, st.integers(1, 4), st.integers(1, 6)).map(
    lambda a: (a[0], Window(a[1], a[2]))
)


def output_sizes(kind, mode, axes):
    """The layer's output sizes, None where it is refused."""
    try:
        if kind == "Convolution":
            return [conv_output(size, w) for size, w in axes]
        if kind == "Deconvolution":
            return [deconv_output(size, w) for size, w in axes]
        clip = any(w.pad for _, w in axes)
        return [pool_output(s, w, ceil=mode == "CEIL", clip=clip) for s, w in axes]
    except ConversionError:
        return None


def test_sizes_agree_with_the_thousand_recorded_ones():
    assert len(ROWS) == 1000
    wrong = []
    for row in ROWS:
        kind, kernel, stride, pad, dilation, mode, height, width, expected = row
        w = Window(kernel, stride, pad, dilation)
        found = output_sizes(kind, mode, ((height, w), (width, w)))
        if found != expected:
            wrong.append((row, found))
    assert not wrong


# Caffe's loops, written down once more without any closed formula.


def walk_conv_count(size, w):
    """Windows of a convolution, found by stepping along the padded axis."""
    padded, count = size + 2 * w.pad, 0
    while count * w.stride + w.extent <= padded:
        count += 1
    if count == 0 and w.extent - padded < w.stride:
        return 1
    return count


def walk_pool_count(size, w, ceil, clip):
    """Windows of a pooling: one more until the last reaches the padded end."""
    padded, count = size + 2 * w.pad, 0
    if ceil:
        count = 1 if w.kernel - padded < w.stride else 0
        while count and (count - 1) * w.stride + w.kernel < padded:
            count += 1
        while clip and (count - 1) * w.stride >= size + w.pad:
            count -= 1
        return count
    while count * w.stride + w.kernel <= padded:
        count += 1
    return count


def walk_conv(image, kernel, windows, outs):
    (hs, ws), (wh, ww) = image.shape, windows
    top = np.zeros(outs)
    for y, x in np.ndindex(*outs):
        for i, j in np.ndindex(*kernel.shape):
            row = y * wh.stride - wh.pad + i * wh.dilation
            col = x * ww.stride - ww.pad + j * ww.dilation
            if 0 <= row < hs and 0 <= col < ws:
                top[y, x] += image[row, col] * kernel[i, j]
    return top


def walk_pool(image, windows, outs, method):
    (height, width), (wh, ww) = image.shape, windows
    top = np.full(outs, -FLT_MAX if method == "MAX" else 0.0)
    for ph, pw in np.ndindex(*outs):
        hstart, wstart = ph * wh.stride - wh.pad, pw * ww.stride - ww.pad
        hend = min(hstart + wh.kernel, height + wh.pad)
        wend = min(wstart + ww.kernel, width + ww.pad)
        pool_size = (hend - hstart) * (wend - wstart)
        hstart, wstart = max(hstart, 0), max(wstart, 0)
        hend, wend = min(hend, height), min(wend, width)
        for row in range(hstart, hend):
            for col in range(wstart, wend):
                if method == "MAX":
                    top[ph, pw] = max(top[ph, pw], image[row, col])
                else:
                    top[ph, pw] += image[row, col]
        if method == "AVE":
            top[ph, pw] = top[ph, pw] / pool_size if pool_size else math.nan
    return top


# XLA: pad, then as many windows as fit.


def xla_pads(padding, shape, windows):
    if padding.emitted == "VALID":
        return tuple((0, 0) for _ in shape)
    if padding.emitted == "SAME":
        return tuple(map(same_pads, shape, windows))
    return padding.emitted


def slide(image, pads, windows, fill):
    """Windows of the padded image, out x out x kernel x kernel."""
    padded = np.pad(image, pads, constant_values=fill)
    extents = tuple(w.extent for w in windows)
    view = np.lib.stride_tricks.sliding_window_view(padded, extents)
    (a, b), (c, d) = (w.stride for w in windows), (w.dilation for w in windows)
    return view[::a, ::b, ::c, ::d]


def image_of(axes):
    shape = tuple(size for size, _ in axes)
    count = math.prod(shape)
    return (np.arange(count) * 7919 % 104729 + 1.0).reshape(shape) - 50000.0


def holds(padding, axes, outs):
    """The emitted padding makes `outs`, starts where Caffe does, and is never SAME
    but where every input size allows it."""
    shape, windows = zip(*axes, strict=True)
    pads = xla_pads(padding, shape, windows)
    for (size, w), (low, high), out in zip(axes, pads, outs, strict=True):
        assert (size + low + high - w.extent) // w.stride + 1 == out
        assert low == w.pad
        assert high >= w.pad + overhang(size, w, out)
    if padding.emitted == "SAME":
        for w in windows:
            for size in range(1, 40):
                assert same_pads(size, w) == (w.pad, w.pad)
    assert padding.same == tuple(map(same_pads, shape, windows))
    assert pads == padding.caffe


@settings(deadline=None, max_examples=300)
@given(conv_axes, conv_axes)
def test_convolution_slides_as_caffe(vertical, horizontal):
    axes = (vertical, horizontal)
    outs = tuple(walk_conv_count(size, w) for size, w in axes)
    assert output_sizes("Convolution", "", axes) == (list(outs) if all(outs) else None)
    assume(all(outs))
    shape, windows = zip(*axes, strict=True)
    padding = reconcile(shape, windows, outs)
    holds(padding, axes, outs)

    image = image_of(axes)
    kernel = np.arange(1.0, 1 + math.prod(w.kernel for w in windows))
    kernel = kernel.reshape(tuple(w.kernel for w in windows))
    taps = slide(image, xla_pads(padding, shape, windows), windows, 0.0)
    expected = walk_conv(image, kernel, windows, outs)
    np.testing.assert_array_equal((taps * kernel).sum((2, 3)), expected)


@settings(deadline=None, max_examples=300)
@given(
    st.tuples(pool_axes, pool_axes) | st.tuples(*[flat_pool_axes] * 2), st.booleans()
)
def test_pooling_slides_as_caffe(axes, ceil):
    clip = any(w.pad for _, w in axes)
    outs = tuple(walk_pool_count(size, w, ceil, clip) for size, w in axes)
    mode = "CEIL" if ceil else "FLOOR"
    assert output_sizes("Pooling", mode, axes) == (list(outs) if all(outs) else None)
    assume(all(outs))
    shape, windows = zip(*axes, strict=True)
    padding = reconcile(shape, windows, outs)
    holds(padding, axes, outs)

    image = image_of(axes)
    pads = xla_pads(padding, shape, windows)
    highest = slide(image, pads, windows, -np.inf).max((2, 3))
    expected = walk_pool(image, windows, outs, "MAX")
    np.testing.assert_array_equal(np.maximum(highest, -FLT_MAX), expected)
    assert padding.empty == bool((highest == -np.inf).any())

    rows, columns = (
        pool_windows(size, w, out)
        for size, w, out in zip(shape, windows, outs, strict=True)
    )
    average = [
        [
            image[top:bottom, left:right].sum() / (tall * wide)
            if tall * wide
            else math.nan
            for left, right, wide in columns
        ]
        for top, bottom, tall in rows
    ]
    expected = walk_pool(image, windows, outs, "AVE")
    np.testing.assert_allclose(average, expected, rtol=1e-12)
    # The divisor is the number of pixels and pads, but not of the overhang.
    padded = np.ones([size + 2 * w.pad for size, w in axes])
    beyond = [(0, high - w.pad) for (_, high), w in zip(pads, windows, strict=True)]
    counts = slide(padded, beyond, windows, 0.0).sum((2, 3))
    divisors = np.outer([r[2] for r in rows], [c[2] for c in columns])
    within = np.outer([r[2] > 0 for r in rows], [c[2] > 0 for c in columns])
    np.testing.assert_array_equal(np.where(within, divisors, counts), counts)


@settings(deadline=None, max_examples=200)
@given(conv_axes)
def test_deconvolution_covers_what_its_taps_write(axis):
    size, w = axis
    taps = range(0, w.extent, w.dilation)
    written = {pixel * w.stride + tap for pixel in range(size) for tap in taps}
    expected = max(written) + 1 - 2 * w.pad
    found = output_sizes("Deconvolution", "", [axis])
    assert found == ([expected] if expected > 0 else None)


@pytest.mark.parametrize(
    ("sizes", "window", "ceil", "emitted", "reason"),
    [
        ((8, 8), Window(1), None, "VALID", "no window reaches beyond"),
        ((7, 7), Window(3, 2), None, "VALID", "no window reaches beyond"),
        ((8, 9), Window(3, 2), None, "VALID", "no window reaches beyond"),
        ((9, 9), Window(3, 1, 1), None, "SAME", "exact at every input size"),
        ((9, 9), Window(3, 1, 2, 2), None, "SAME", "exact at every input size"),
        ((9, 9), Window(2, 1, 1), None, ((1, 1), (1, 1)), "another output size"),
        ((224, 224), Window(7, 2, 3), None, ((3, 3), (3, 3)), "((2, 3), (2, 3))"),
        ((225, 225), Window(7, 2, 3), None, ((3, 3), (3, 3)), "this input size only"),
        ((3, 5), Window(4, 2), None, ((0, 1), (0, 0)), "overhangs by 1 x 0"),
        ((112, 112), Window(3, 2), True, ((0, 1), (0, 1)), "overhangs by 1 x 1"),
        ((113, 113), Window(3, 2), True, "VALID", "no window reaches beyond"),
        ((6, 6), Window(3, 2, 1), True, ((1, 2), (1, 2)), "overhangs by 1 x 1"),
        ((14, 14), Window(3, 1, 1), True, "SAME", "exact at every input size"),
    ],
)
def test_padding_that_is_emitted(sizes, window, ceil, emitted, reason):
    windows = (window,) * len(sizes)
    outs = tuple(
        conv_output(size, window)
        if ceil is None
        else pool_output(size, window, ceil=ceil, clip=window.pad > 0)
        for size in sizes
    )
    padding = reconcile(sizes, windows, outs)
    assert padding.emitted == emitted
    assert reason in padding.reason
    assert not padding.empty


@pytest.mark.parametrize(
    ("size", "window", "out", "last", "high"),
    [
        (6, Window(1, 2), 4, (6, 6, 0), 1),
        (8, Window(1, 3), 4, (9, 9, -1), 2),
        (5, Window(2, 6), 2, (6, 6, -1), 3),
    ],
)
def test_window_wholly_outside_the_image_is_flagged(size, window, out, last, high):
    assert pool_output(size, window, ceil=True, clip=False) == out
    assert pool_windows(size, window, out)[-1] == last
    padding = reconcile((size,), (window,), (out,))
    assert padding.empty
    assert padding.emitted == ((0, high),)
    # A pad on the other axis makes Caffe drop the window here as well.
    assert pool_output(size, window, ceil=True, clip=True) == out - 1


def test_average_divides_by_pads_but_not_by_the_overhang():
    window = Window(3, 2, 1)
    out = pool_output(6, window, ceil=True, clip=True)
    assert pool_windows(6, window, out) == [
        (0, 2, 3),
        (1, 4, 3),
        (3, 6, 3),
        (5, 6, 2),
    ]


def test_convolution_windows_in_the_padding_are_flagged():
    padding = reconcile((4, 4), (Window(1, 1, 1),) * 2, (6, 6))
    assert padding == Padding(
        emitted=((1, 1), (1, 1)),
        caffe=((1, 1), (1, 1)),
        same=((0, 0), (0, 0)),
        reason="SAME gives another output size",
        empty=True,
    )
    first_only = reconcile((4,), (Window(1, 3, 1),), (2,))  # pixels -1 and 2
    assert first_only.empty
    assert not reconcile((4,), (Window(2, 3, 1),), (2,)).empty  # from -1 and 2


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel": 0},
        {"kernel": -1},
        {"kernel": 3, "stride": 0},
        {"kernel": 3, "pad": -1},
        {"kernel": 3, "dilation": 0},
        {"kernel": INT_MAX + 1},
        {"kernel": 3, "pad": INT_MAX + 1},
    ],
)
def test_window_out_of_range_is_refused(fields):
    with pytest.raises(ConversionError, match="must be"):
        Window(**fields)


def test_window_reports_every_field_that_is_wrong():
    with pytest.raises(ConversionError, match=r"kernel .* not 0; stride .* not 0"):
        Window(0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_output(3, Window(6, 2)), "kernel 6, stride 2, pad 0 on an input"),
        (lambda: conv_output(0, Window(1, 1, 1)), "input of 1 or more"),
        (lambda: conv_output(9, Window(3, 1, INT_MAX)), "output of 4294967301"),
        (lambda: deconv_output(2, Window(1, 1, 1, 2)), "dilation 2 on an input of 2"),
        (lambda: pool_output(4, Window(2, 1, 2), ceil=True, clip=True), "less than"),
        (lambda: pool_output(4, Window(2, dilation=2), ceil=True, clip=False), "dilat"),
        (lambda: pool_windows(4, Window(2, dilation=2), 2), "no dilation"),
    ],
)
def test_refused_where_caffe_aborts(call, message):
    with pytest.raises(ConversionError, match=message):
        call()


@pytest.mark.parametrize("out", [0, 2])
def test_an_output_that_no_padding_makes_is_a_fault_of_the_caller(out):
    with pytest.raises(ValueError, match="no padding makes"):
        reconcile((9,), (Window(3, 1),), (out,))
