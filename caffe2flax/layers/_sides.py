"""Pads of their own for the four sides, and SAME: what Synopsys' fork of Caffe has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe2flax.errors import ConversionError, unsupported
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.window import Padding, Pairs, Window, same_pads

NAMES = ("pad_t", "pad_b", "pad_l", "pad_r")

QUANTISED = {
    "input_scale": 1.0,
    "output_scale": 1.0,
    "weight_scale": 1.0,
    "input_zero_point": 0.0,
    "output_zero_point": 0.0,
    "weight_zero_point": 0.0,
}
"""Fields of quantised layers with the values under which nothing is quantised."""
SWITCHES = ("per_channel_scale_weight", "per_channel_scale_output")
SATURATE = ("None", "Signed", "Unsigned", "Signed_8bit", "Unsigned_8bit")


@dataclass(frozen=True, slots=True)
class Sides:
    """The pads (low, high) of rows and columns, or SAME of TensorFlow; without either,
    a window keeps the pad that it has."""

    pads: Pairs = ()
    same: bool = False

    def around(self, windows: tuple[Window, ...], sizes: Shape) -> tuple[Window, ...]:
        """The windows with these pads, over an input of `sizes`. Raises
        ConversionError."""
        if not self.pads and not self.same:
            return windows
        if len(windows) != 2:
            raise ConversionError(
                "pads for each side, and pad_type, need rows and columns: a blob of 4 "
                f"axes, not {len(windows)} spatial axes"
            )
        if self.same and any(w.dilation > 1 for w in windows):
            raise unsupported(
                "pad_type 1 with dilation: the fork pads as if there were none; give "
                "pad_l, pad_t, pad_r, pad_b"
            )
        pads = self.pads or tuple(map(same_pads, sizes, windows))
        return tuple(
            replace(w, pad=low, pad_end=high)
            for w, (low, high) in zip(windows, pads, strict=True)
        )

    def named(self, padding: Padding) -> Padding:
        """SAME by that name, which is right for every size of the input."""
        if not self.same:
            return padding
        return replace(padding, emitted="SAME", reason="pad_type 1 is SAME")


AS_GIVEN = Sides()


def read_sides(params: Params, *, signed: bool) -> Sides:
    """pad_l, pad_r, pad_t, pad_b and pad_type of a layer, which has read its other
    pads. All four 0 are as if not given."""
    low_r, high_r, low_c, high_c = given = [params.get(name, 0) for name in NAMES]
    kind = params.get("pad_type", 0)
    if kind not in (0, 1):
        params.error("pad_type", f"pad_type is 0 or 1 (SAME), not {kind}")
    others = [name for name in ("pad", "pad_h", "pad_w") if params.has(name)]
    if params.has("pad_type") and others:
        params.error("pad_type", f"give pad_type or {others[0]}, not both")
    if not any(given):
        return Sides(same=kind == 1)
    if others or kind:
        other = others[0] if others else "pad_type"
        params.error(_first(params), f"give pads for each side or {other}, not both")
    if not signed and min(given) < 0:
        params.error(_first(params), "a pad of a pooling cannot be negative")
    return Sides(((low_r, high_r), (low_c, high_c)))


def _first(params: Params) -> str:
    return next(name for name in NAMES if params.get(name, 0))


def refuse_quantised(params: Params) -> None:
    """An error where a layer of the fork computes in integers."""
    changed = [
        name
        for name, plain in QUANTISED.items()
        if any(value != plain for value in params.all(name, float))
    ]
    changed += [name for name in SWITCHES if params.get(name, False)]
    if params.choice("saturate", *SATURATE) != "None":
        changed.append("saturate")
    params.ignore("quantize_method")
    if changed:
        text = "quantised arithmetic of the Synopsys fork is not supported"
        params.unsupported(changed[0], text)
