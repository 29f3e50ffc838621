"""U-Net's way to join paths, of the fork of F. Tschopp (naibaf7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer


@layer("MergeCrop", "mergecrop_param")
@dataclass(frozen=True, slots=True)
class MergeCrop(Layer):
    """The channels of a and of the middle of b in the size of a (STACK), or their sum
    (ADD)."""

    bottoms = 2
    in_place = False

    adds: bool = False
    forward: tuple[bool, ...] = (True, True)
    """Whether each bottom counts; zeros stand for one that does not."""
    backward: tuple[bool, ...] = (True, True)
    """Whether gradients flow to each bottom."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        adds = params.choice("operation", "STACK", "ADD") == "ADD"
        default = {"forward": (True, True), "backward": (True, False)}
        flags = []
        for name, usual in default.items():
            given = params.all(name, bool)
            if len(given) > 2:
                params.error(name, f"{len(given)} values of {name} for 2 bottoms")
            flags.append((*given, *usual[len(given) :])[:2])
        params.note(
            f"{params.span()}: MergeCrop as it is meant: the fork's kernel mixes up "
            "channels where a and b have different numbers of them"
        )
        if params.phase != "TRAIN":
            flags[1] = (True, True)
        return cls(adds, *flags)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        a, b = inputs
        if len(a) != len(b) or len(a) < 3 or a[0] != b[0]:
            raise ConversionError(f"{b} cannot be joined with {a}")
        if any(m < n for n, m in zip(a[2:], b[2:], strict=True)):
            raise ConversionError(f"{b} is smaller than {a}, to which it is cropped")
        if self.adds and a[1] != b[1]:
            raise ConversionError(f"the sum of {a[1]} and {b[1]} channels")
        return ((a[0], a[1] if self.adds else a[1] + b[1], *a[2:]),)

    def layouts(self, *inputs: Operand) -> Layouts:
        layout = Layout.channels_last(len(inputs[0].shape))
        return Layouts((layout, layout), (layout,))

    def _offsets(self, a: Shape, b: Shape) -> tuple[int, ...]:
        return tuple((m - n) // 2 for n, m in zip(a[2:], b[2:], strict=True))

    def call(self, at: Site) -> str:
        a, b = at.args
        starts = self._offsets(at.inputs[0].shape, at.inputs[1].shape)
        if any(starts) or at.inputs[0].shape[2:] != at.inputs[1].shape[2:]:
            b = f"crop({b}, {a}, {literal((None, *starts, None))})"
        parts = [
            self._passed(part, *flags)
            for part, *flags in zip((a, b), self.forward, self.backward, strict=True)
        ]
        if self.adds:
            return " + ".join(parts)
        return f"jnp.concatenate([{', '.join(parts)}], axis=-1)"

    def _passed(self, part: str, forward: bool, backward: bool) -> str:
        if not forward:
            return f"jnp.zeros_like({part})"
        return part if backward else f"lax.stop_gradient({part})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        a, b = inputs
        cuts = (
            slice(start, start + n)
            for start, n in zip(
                self._offsets(a.shape, b.shape), a.shape[2:], strict=True
            )
        )
        b = b[(slice(None), slice(None), *cuts)]
        a, b = (x * kept for x, kept in zip((a, b), self.forward, strict=True))
        return a + b if self.adds else np.concatenate([a, b], 1)
