"""The layer type Normalize, which has two meanings in Caffe's forks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import RNGS, Call, arguments, unless
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Elementwise, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import initializer
from caffe2flax.layers._fields import filler
from caffe2flax.layers._forks import four_axes

HAPPYNEAR_EPS = 1e-6


@layer("Normalize", "norm_param", "normalize_param")
@dataclass(frozen=True, slots=True)
class Normalize(Elementwise):
    """x / sqrt(sum of x^2 + eps) * scale, along the channels or over the whole image.

    SSD's and ParseNet's layer, with `norm_param`. With `normalize_param` it is that of
    caffe-windows: along the channels, by L2 or L1 norm, without a scale.
    """

    tops = (1, 2)

    across_spatial: bool = True
    channel_shared: bool = True
    eps: float = 1e-10
    scale_filler: Filler = Filler("constant", value=1.0)
    scaled: bool = True
    norm: str = "L2"
    with_norm: bool = False
    """Whether the norm is a second top (N, 1, H, W)."""
    norm_learns: bool = False
    """Whether this top has a gradient."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        line = params.parent
        assert line is not None
        meaning = _meaning(params, line)
        if meaning == "happynear":
            return cls._without_scale(line.sub("normalize_param"), params.tops > 1)
        if params.tops > 1:
            params.error(None, "SSD's Normalize has one top: the norm is none of its")
        params.ignore("fix_scale")
        eps = params.get("eps", 1e-10)
        if not 0 <= eps < float("inf"):
            params.error("eps", f"eps cannot be {eps}")
        return cls(
            across_spatial=params.get("across_spatial", True),
            channel_shared=params.get("channel_shared", True),
            eps=eps,
            scale_filler=filler(params, "scale_filler", 1.0),
        )

    @classmethod
    def _without_scale(cls, params: Params, with_norm: bool) -> Self:
        params.ignore("fix_gradient")
        norm = params.get("normalize_type", "L2")
        if norm not in ("L1", "L2"):
            params.error("normalize_type", f"normalize_type is L1 or L2, not {norm!r}")
        eps = HAPPYNEAR_EPS
        learns = params.get("bp_norm", False)
        return cls(False, True, eps, Filler(), False, norm, with_norm, learns)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        shape = four_axes(inputs[0])
        if not self.scaled:
            norm = (shape[0], 1, *shape[2:])
            return (shape, norm) if self.with_norm else (shape,)
        if len(inputs[0]) < 2:
            raise ConversionError(f"needs a blob of 2 axes or more, not {inputs[0]}")
        return inputs

    def layouts(self, *inputs: Operand) -> Layouts:
        tops = 1 + self.with_norm
        if self.scaled or len(inputs[0].shape) == 4:
            layout = inputs[0].layout
            return Layouts((layout,), (layout,) * tops)
        wanted = Layout.caffe(len(inputs[0].shape))
        return Layouts((wanted,), (Layout.caffe(4),) * tops)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        if not self.scaled:
            return ()
        shape = () if self.channel_shared else (inputs[0][1],)
        return (Blob(shape, self.scale_filler),)

    def names(self) -> tuple[str, ...]:
        return ("scale",)

    def build(self, at: Site) -> Call | None:
        if not self.scaled:
            return None
        shape = () if self.channel_shared else (at.input.shape[1],)
        ones = Filler("constant", value=1.0)
        return Call.of(
            "Normalize",
            shape,
            axis=at.axis(1),
            across_spatial=self.across_spatial,
            epsilon=self.eps,
            scale_init=initializer(at.initialise, self.scale_filler, shape, ones),
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        if self.scaled:
            return f"{at.module}({at.x})"
        x, same = at.x, len(at.input.shape) == 4
        if not same:
            dims = ", ".join(map(str, at.output.reshape_dims()))
            x = f"{at.operands[0]}.reshape({dims})"
        axis = at.axis(1) if same else 1
        given = arguments(x, axis=unless(axis, -1))
        top = f"unit_{self.norm.lower()}({given})"
        if not self.with_norm:
            return top
        norm = f"norm_{self.norm.lower()}({given})"
        return f"{top}, {norm if self.norm_learns else f'lax.stop_gradient({norm})'}"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        if self.channel_shared:
            return {"scale": blobs[0].reshape(())} if self.scaled else {}
        return {"scale": at.input.arrange_blob(blobs[0], 1)}

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        x = inputs[0] if self.scaled else inputs[0].reshape(four_axes(inputs[0].shape))
        sizes = np.abs(x) if self.norm == "L1" else x**2
        top = np.empty_like(x)
        for n in range(len(x)):
            axes = tuple(range(x.ndim - 1)) if self.across_spatial else 0
            total = sizes[n].sum(axes, keepdims=True) + self.eps
            top[n] = x[n] / (total if self.norm == "L1" else np.sqrt(total))
        if not self.scaled:
            total = sizes.sum(1, keepdims=True) + self.eps
            norm = total if self.norm == "L1" else np.sqrt(total)
            return (top, norm) if self.with_norm else top
        scale = blobs[0].reshape(-1, *(1,) * (x.ndim - 2))
        return top * (scale.reshape(()) if self.channel_shared else scale)


def _meaning(params: Params, line: Params) -> str:
    """The meaning of the type Normalize in this layer."""
    given = line.has("norm_param"), line.has("normalize_param")
    if chosen := params.dialect("Normalize"):
        return chosen
    if given == (True, False):
        return params.decided("Normalize", "ssd", "it has norm_param")
    if given == (False, True):
        return params.decided("Normalize", "happynear", "it has normalize_param")
    params.undecided("Normalize")
    return ""
