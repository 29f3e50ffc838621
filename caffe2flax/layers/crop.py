"""Crop: a part of a blob, in the size of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

from caffe2flax.errors import ConversionError, ambiguous
from caffe2flax.ir.abilities import Aligned, Rearranges
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.coordinates import CoordinateMap, Spatial
from caffe2flax.ir.dialects import listed
from caffe2flax.ir.layer import Array, Layer, Layouts, Site, canonical_axis
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("Crop", "crop_param")
@dataclass(frozen=True, slots=True)
class Crop(Layer, Spatial, Aligned, Rearranges):
    """The first bottom from `offset` on, in the size of the second from `axis` on."""

    bottoms = 2
    in_place = False

    first_axis: int = 2
    offset: tuple[int, ...] = ()
    derived: str = ""
    """"auto": its offset follows from the layers above the bottoms; "open": as "auto",
    or an error where the file does not decide and the offset is not 0; "": given."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        meaning = params.dialect("Crop")
        if meaning == "auto" or (not meaning and params.message is None):
            if params.message is not None:
                params.error(None, "as 'auto' it has no crop_param: its offset follows")
            return cls(derived=meaning or "open")
        offset = params.all("offset", int)
        if any(start < 0 for start in offset):
            params.error("offset", f"offset cannot be negative: {offset}")
        return cls(params.get("axis", 2), offset)

    def coordinate_map(self) -> CoordinateMap | None:
        starts = self.offset * 2 if len(self.offset) < 2 else self.offset
        if self.derived == "open" or self.first_axis not in (2, -2):
            return None
        return tuple((Fraction(1), Fraction(-start)) for start in starts or (0, 0))

    @property
    def aligned(self) -> bool:
        return bool(self.derived)

    def with_alignment(
        self, offsets: tuple[Fraction, ...] | None, wide: bool
    ) -> tuple[Layer, str]:
        shown = None if offsets is None else [str(offset) for offset in offsets]
        if offsets is None or any(o < 0 or o.denominator > 1 for o in offsets):
            if self.derived == "auto":
                raise ConversionError(
                    "no offset of this Crop can be derived from the layers between its "
                    f"bottoms: {shown}"
                )
            return replace(self, derived=""), ""
        given = tuple(map(int, offsets))
        if self.derived == "auto" or not any(given):
            return replace(self, offset=given, derived=""), ""
        if not wide:
            raise ambiguous(
                f"Crop without crop_param: in some forks the offset {given} follows "
                "from the layers above, in Caffe 1.0 it is 0, and nothing here tells "
                f"which: {listed('Crop')}. Choose one with --dialect Crop=MEANING"
            )
        note = (
            f"Crop taken as 'auto', with offset {given}: a wide border above is there "
            "for it; --dialect Crop=bvlc overrides"
        )
        return replace(self, offset=given, derived=""), note

    def _starts(self, shape: Shape) -> tuple[int | None, ...]:
        """The offset on each axis, None where the axis is not cropped."""
        axis = canonical_axis(self.first_axis, len(shape))
        count = len(shape) - axis
        if len(self.offset) > 1 and len(self.offset) != count:
            raise ConversionError(
                f"{len(self.offset)} offset for {count} axes from axis {axis} on: give "
                f"1 or {count}"
            )
        starts = self.offset or (0,)
        return (None,) * axis + (starts * count if len(starts) == 1 else starts)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape, like = inputs
        if len(like) < len(shape):
            raise ConversionError(f"{like} has no size for each axis of {shape}")
        cropped = []
        for axis, (size, wanted) in enumerate(zip(shape, like, strict=False)):
            start = self._starts(shape)[axis]
            if start is not None and size - start < wanted:
                raise ConversionError(
                    f"axis {axis} of {shape} has no {wanted} entries from {start} on"
                )
            cropped.append(size if start is None else wanted)
        return (tuple(cropped),)

    def layouts(self, *inputs: Operand) -> Layouts:
        """Both have their axes in the same order; only the second one's extents are
        used."""
        x, like = inputs
        axis = canonical_axis(self.first_axis, len(x.shape))
        if len(like.shape) > len(x.shape):
            layout = Layout.caffe(len(x.shape))
            return Layouts((layout, Layout.caffe(len(like.shape))), (layout,))
        layout = x.layout.plain(*range(axis, len(x.shape)))
        other = like.layout if like.layout.axes == layout.axes else layout.plain()
        return Layouts((layout, other), (layout,))

    def call(self, at: Site) -> str:
        starts = at.input.layout.arrange_each(self._starts(at.input.shape))
        return f"crop({arguments(*at.args, literal(starts))})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        x, like = inputs
        cuts = (
            slice(None) if start is None else slice(start, start + size)
            for start, size in zip(self._starts(x.shape), like.shape, strict=False)
        )
        return x[tuple(cuts)]


@layer("AutoCrop")
@dataclass(frozen=True, slots=True)
class AutoCrop(Crop):
    """The first bottom in the size of the second, from the offset on that follows from
    the layers above."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(derived="auto")
