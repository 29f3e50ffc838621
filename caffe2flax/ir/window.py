"""The arithmetic of sliding windows: Caffe's sizes, and the same padding for XLA.

Everything here is about one spatial axis at a time, except `reconcile`. Positions
count from the first pixel of the image, so a window in the padding starts below 0.
Equal output sizes do not make equal pads: SAME on a 7-wide, stride 2, pad 3 window
gives Caffe's size with every window shifted by a pixel, so no function here compares
sizes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from caffe2flax.errors import ConversionError

INT_MAX = 2**31 - 1
"""Caffe computes sizes in C++ ints; what exceeds them has no meaning there."""

Pairs = tuple[tuple[int, int], ...]
"""A (low, high) pad for each spatial axis."""


@dataclass(frozen=True, slots=True)
class Window:
    """One axis of a sliding window; raises ConversionError if a field is out of range.

    `pad` is for both ends, unless `pad_end` is given, as forks have it: then each is
    for its own end, and may be negative, which cuts pixels off.

    Caffe accepts a dilation of 0, which reads one pixel `kernel` times; no network
    means that, so it is an error here.
    """

    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    pad_end: int | None = None

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {least} to {INT_MAX}, not {value}"
            for name, value, least in (
                ("kernel", self.kernel, 1),
                ("stride", self.stride, 1),
                ("pad", self.pad, 0 if self.pad_end is None else -INT_MAX),
                ("pad", self.high, -INT_MAX),
                ("dilation", self.dilation, 1),
            )
            if not least <= value <= INT_MAX
        ]
        if wrong:
            raise ConversionError("; ".join(wrong))

    @property
    def high(self) -> int:
        """The pad at the end."""
        return self.pad if self.pad_end is None else self.pad_end

    @property
    def pads(self) -> int:
        """The pads of both ends together."""
        return self.pad + self.high

    @property
    def extent(self) -> int:
        """Pixels from the first tap to the last, both included."""
        return self.dilation * (self.kernel - 1) + 1

    def __str__(self) -> str:
        dilation = f", dilation {self.dilation}" if self.dilation > 1 else ""
        pad = self.pad if self.pad_end is None else f"{self.pad} and {self.pad_end}"
        return f"kernel {self.kernel}, stride {self.stride}, pad {pad}{dilation}"


def caption(windows: Sequence[Window]) -> str:
    """The windows of all axes as text: "7x7, stride 2, pad 3"."""
    parts = ["x".join(str(w.kernel) for w in windows)]
    for name, usual in (("stride", "1"), ("pad", "0"), ("dilation", "1")):
        values = [str(getattr(w, name)) for w in windows]
        if name == "pad":
            values = [_pad_text(w) for w in windows]
        if set(values) != {usual}:
            sides = values[:1] if len(set(values)) == 1 else values
            parts.append(f"{name} {'x'.join(sides)}")
    return ", ".join(parts)


def _pad_text(w: Window) -> str:
    return str(w.pad) if w.pad == w.high else f"{w.pad}+{w.high}"


CEIL = ((0, 1), (0, 1))
"""The usual padding where Caffe rounds pooled sizes up; generated modules have a name
for it."""


@dataclass(frozen=True, slots=True)
class Padding:
    """What `reconcile` chose for a layer; the tuples have a pair for each axis.

    emitted: the padding argument for XLA, exactly equal to `caffe`.
    caffe: zeros (or -inf) that Caffe's windows may read at each side, the overhang
        included.
    same: what "SAME" would have padded at this input size.
    reason: why `emitted` was chosen, for `inspect`.
    empty: a window has no pixel of the image. Its convolution is the bias; its pooling
        is -3.4028235e38 (MAX) or 0 / divisor (AVE, NaN where the divisor is 0), which
        XLA's pooling does not give.
    """

    emitted: Literal["VALID", "SAME"] | Pairs
    caffe: Pairs
    same: Pairs
    reason: str
    empty: bool = False


def conv_output(size: int, w: Window) -> int:
    """Size of a Convolution's (or Im2col's) output.

    C++ divides towards zero, so a window that exceeds the padded input by less than
    its stride still gives one output: kernel 4, stride 2 on 3 pixels gives 1.
    Raises ConversionError where Caffe aborts.
    """
    room = size + w.pads - w.extent
    steps = room // w.stride if room >= 0 else -(-room // w.stride)
    return _checked(steps + 1, size, w)


def deconv_output(size: int, w: Window) -> int:
    """Size of a Deconvolution's output. Raises ConversionError where Caffe aborts."""
    return _checked(w.stride * (size - 1) + w.extent - w.pads, size, w)


def pool_output(size: int, w: Window, *, ceil: bool, clip: bool) -> int:
    """Size of a Pooling's output.

    ceil: round up, as Caffe does unless the layer says otherwise.
    clip: some pad of the layer, on any axis, is not zero; then Caffe drops a last
        window that would start beyond the image and its low pad.
    Raises ConversionError where Caffe aborts.
    """
    _check_pool(w)
    room = size + w.pads - w.kernel
    out = (-(-room // w.stride) if ceil else room // w.stride) + 1
    if clip and (out - 1) * w.stride >= size + w.pad:
        out -= 1
        if (out - 1) * w.stride >= size + w.pad:
            raise ConversionError(f"two windows of {w} are beyond an input of {size}")
    return _checked(out, size, w)


def overhang(size: int, w: Window, out: int) -> int:
    """Pixels that the last of `out` windows reads beyond the pad; never negative.

    0 also for a surplus, trailing pixels (or pads) that no window reads: XLA rounds the
    number of windows down, so it does not read them either.
    """
    return max(0, _reach(size, w, out) - w.high)


def pool_windows(size: int, w: Window, out: int) -> list[tuple[int, int, int]]:
    """(start, end, divisor) of each pooling window, clipped to the image.

    `divisor` is this axis's factor of AVE's divisor. Caffe clips to size + pad, takes
    the divisor, then clips to the image, so pads count but the overhang does not. A
    window wholly outside has start == end, and a divisor of 0 or less.
    """
    _check_pool(w)
    windows = []
    for i in range(out):
        start = i * w.stride - w.pad
        end = min(start + w.kernel, size + w.high)
        first = max(start, 0)
        windows.append((first, max(first, min(end, size)), end - start))
    return windows


def same_pads(size: int, w: Window) -> tuple[int, int]:
    """The (low, high) pads that XLA takes "SAME" to mean at this input size."""
    total = max(0, (-(-size // w.stride) - 1) * w.stride + w.extent - size)
    return total // 2, total - total // 2


def reconcile(
    sizes: tuple[int, ...], windows: tuple[Window, ...], outs: tuple[int, ...]
) -> Padding:
    """The XLA padding under which `windows` slide over `sizes` just as in Caffe.

    sizes, windows, outs: the input's spatial sizes, the windows and the output's
        spatial sizes, axis by axis in one order, which the pairs follow.
    Raises ValueError if no padding makes `outs` of `sizes`.
    """
    axes = tuple(zip(sizes, windows, outs, strict=True))
    caffe = tuple((w.pad, _high(size, w, out)) for size, w, out in axes)
    same = tuple(same_pads(size, w) for size, w, _ in axes)
    empty = any(
        w.pad >= w.extent or (out - 1) * w.stride - w.pad >= size
        for size, w, out in axes
    )
    if not any(map(any, caffe)):
        reason = "no pad, and no window reaches beyond the input"
        return Padding("VALID", caffe, same, reason, empty)
    if all(map(_same_is_exact, windows, caffe)):
        reason = "stride 1, odd extent, equal pads: SAME is exact at every input size"
        return Padding("SAME", caffe, same, reason, empty)

    over = tuple(overhang(size, w, out) for size, w, out in axes)
    reason = _why_not_same(axes, caffe, same)
    if any(over):
        reason += f"; the last window overhangs by {_joined(over)}"
    return Padding(caffe, caffe, same, reason, empty)


def _reach(size: int, w: Window, out: int) -> int:
    """Pixels from the image's end to the last window's; negative: short of the end."""
    return (out - 1) * w.stride + w.extent - w.pad - size


def _high(size: int, w: Window, out: int) -> int:
    """The high pad nearest to Caffe's under which XLA makes `out` windows."""
    reach = _reach(size, w, out)
    high = min(max(w.high, reach), reach + w.stride - 1)
    if high < min(0, w.high) or out < 1:
        raise ValueError(f"no padding makes {out} of {size} with {w}")
    return high


def _same_is_exact(w: Window, pads: tuple[int, int]) -> bool:
    return w.stride == 1 and w.extent == 2 * w.pad + 1 and pads == (w.pad, w.pad)


def _why_not_same(
    axes: tuple[tuple[int, Window, int], ...], caffe: Pairs, same: Pairs
) -> str:
    if any(-(-size // w.stride) != out for size, w, out in axes):
        return "SAME gives another output size"
    if any(low != other for (low, _), (other, _) in zip(caffe, same, strict=True)):
        return f"SAME gives this output size but shifts the windows: it pads {same}"
    return "SAME agrees at this input size only"


def _joined(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))


def _check_pool(w: Window) -> None:
    if w.dilation != 1:
        raise ConversionError(f"pooling has no dilation, but it is {w.dilation}")
    if w.pad_end is None and w.pad >= w.kernel:
        raise ConversionError(f"pad {w.pad} must be less than kernel {w.kernel}")


def _checked(out: int, size: int, w: Window) -> int:
    if size < 1:
        raise ConversionError(f"a window needs an input of 1 or more, not {size}")
    if not 1 <= out <= INT_MAX:
        raise ConversionError(f"{w} on an input of {size} gives an output of {out}")
    return out
