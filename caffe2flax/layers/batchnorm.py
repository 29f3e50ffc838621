"""Batch normalization, and the learned scale and bias after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.frontend.message import Message
from caffe2flax.ir.abilities import Doubtful, Foldable, FollowsPhase
from caffe2flax.ir.call import DTYPE, RNGS, Call, Code
from caffe2flax.ir.coordinates import Pointwise
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Elementwise, Layer, Layouts, Site
from caffe2flax.ir.layout import Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._affine import (
    CHANNELS,
    AxisRange,
    along,
    arranged,
    expanded,
    initializer,
    joined,
    shapes,
)
from caffe2flax.layers._fields import filler
from caffe2flax.layers._fork_batchnorm import ScaledBatchNorm, doubt, meaning

ONES = Filler("constant", value=1.0)
ZEROS = Filler()


@layer("BatchNorm", "batch_norm_param")
@dataclass(frozen=True, slots=True)
class BatchNorm(Elementwise, Foldable, Doubtful, FollowsPhase):
    """(x - mean) / sqrt(variance + eps), a channel at a time.

    In TEST with running statistics, as an nnx.BatchNorm; in TRAIN with those of the
    batch, as a MovingBatchNorm that keeps Caffe's running statistics.
    `use_global_stats` overrides the phase.
    """

    eps: float = 1e-5
    momentum: float = 0.999
    moving: bool = False
    """Whether it normalizes by the statistics of the batch."""
    forced: bool = False
    """Whether `use_global_stats` overrides the default of the phase."""
    sums: bool = False
    """Whether its module keeps Caffe's running sums, as it normalizes by the statistics
    of the batch in another phase."""
    scale: Scale | None = None
    """The Scale layer after it, once folded in."""
    outside: bool = False
    """Synopsys' fork: eps is added to the root, not below it."""

    @classmethod
    def parse(cls, params: Params) -> Layer:
        fork = meaning(params)
        if fork != "bvlc":
            return ScaledBatchNorm.read(params, fork)
        # Fields of a fork that includes the Scale: the fillers of its blobs.
        params.ignore("use_weight_bias", "filler", "bias_filler", "bias_term")
        # Of Synopsys' fork, for training alone.
        params.ignore("update_global_stats", "icnet")
        _check_frozen(params)
        training = params.phase == "TRAIN"
        moving = not params.get("use_global_stats", not training)
        outside = not params.get("add_eps_before_sqrt", True)
        if outside and moving:
            text = "add_eps_before_sqrt: false is known for running statistics alone"
            params.error("add_eps_before_sqrt", f"{text}: convert the net as TEST")
        return cls(
            params.get("eps", 1e-5),
            params.get("moving_average_fraction", 0.999),
            moving,
            moving != training,
            moving,
            outside=outside,
        )

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) < 2:
            raise ConversionError(f"BatchNorm needs 2 axes or more, not {inputs[0]}")
        return inputs

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        channels = (inputs[0][1],)
        own = (Blob(channels, ZEROS), Blob(channels, ZEROS), Blob((1,), ZEROS))
        return own + (self.scale.blobs(*inputs) if self.scale else ())

    def names(self) -> tuple[str, ...]:
        return ("mean", "var", "factor") if self.sums else ()

    def serving(self, other: Layer) -> Layer:
        if not isinstance(other, BatchNorm):
            return self
        forced = other.forced and other.moving == self.moving
        sums = self.sums or other.sums
        return replace(self, sums=sums, forced=self.forced or forced)

    def fold(self, following: Layer) -> Layer | None:
        if self.sums or self.scale is not None or not isinstance(following, Scale):
            return None
        if following.axis_range != CHANNELS or following.second:
            return None
        return replace(self, scale=following)

    def build(self, at: Site) -> Call:
        features = at.input.shape[1]
        eps = 0.0 if self.outside else self.eps
        usual = {"axis": at.axis(1), "momentum": self.momentum, "epsilon": eps}
        if self.sums:
            return Call.of("MovingBatchNorm", features, **usual)
        scale = self.scale
        return Call.of(
            "nnx.BatchNorm",
            features,
            **usual,
            use_bias=scale is not None and scale.bias,
            use_scale=scale is not None,
            **(scale.initializers(at) if scale else {}),
            dtype=DTYPE,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        if not self.forced:
            return f"{at.module}({at.x})"
        return f"{at.module}({at.x}, use_running_average={not self.moving})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        mean, variance, factor = blobs[:3]
        if not self.sums:
            mean, variance = statistics(blobs)
            if self.outside:
                variance = (np.sqrt(variance) + np.float32(self.eps)) ** 2
        named = {"mean": mean, "var": variance}
        if self.scale:
            named |= dict(zip(("scale", "bias"), blobs[3:], strict=False))
        variables = {k: at.input.arrange_blob(v, 1) for k, v in named.items()}
        return variables | ({"factor": factor} if self.sums else {})

    def doubt(self, blobs: Sequence[Array]) -> str:
        return "" if self.moving else doubt(blobs)

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        (x,) = inputs
        if self.moving:
            others = tuple(axis for axis in range(x.ndim) if axis != 1)
            mean, variance = x.mean(others), x.var(others)
        else:
            mean, variance = statistics(blobs, np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            deviation = np.sqrt(along(variance, x, 1) + self.eps)
            if self.outside:
                deviation = np.sqrt(along(variance, x, 1)) + self.eps
            top: Array = (x - along(mean, x, 1)) / deviation
        return self.scale.reference(blobs[3:], top) if self.scale else top


def statistics(
    blobs: Sequence[Array], dtype: type[np.floating] = np.float32
) -> tuple[Array, Array]:
    """Mean and variance (C). Caffe stores them times a factor, its third blob; both are
    0 where the factor is 0."""
    mean, variance, factor = (np.asarray(blob, dtype) for blob in blobs[:3])
    divisor = factor.reshape(-1)[0]
    scale = dtype(0) if divisor == 0 else dtype(1) / divisor
    return mean * scale, variance * scale


def _check_frozen(params: Params) -> None:
    """Records a problem where a solver could change the statistics: Caffe aborts."""
    message = params.parent.message if params.parent else None
    specs = message.all("param") if message else ()
    for spec in list(specs)[:3]:
        if not isinstance(spec.value, Message):
            continue
        if Params("param", spec.value).get("lr_mult", 1.0) != 0:
            raise ConversionError(
                "the statistics of a BatchNorm are no parameters: give its param "
                "messages lr_mult: 0, or leave them out"
            ).at(spec.span)


@layer("Scale", "scale_param")
@dataclass(frozen=True, slots=True)
class Scale(Layer, Pointwise):
    """x * scale + bias, on `num_axes` axes of x from `axis` on.

    A second bottom is the scale.
    """

    bottoms = (1, 2)

    bias: bool = False
    axis_range: AxisRange = CHANNELS
    scale_filler: Filler = ONES
    bias_filler: Filler = ZEROS
    second: bool = False
    """Whether the scale is a second bottom."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        return cls(
            bias=params.get("bias_term", False),
            axis_range=AxisRange.parse(params),
            scale_filler=filler(params, "filler", 1.0),
            bias_filler=filler(params, "bias_filler"),
            second=params.bottoms == 2,
        )

    def _span(self, *inputs: Shape) -> tuple[int, int]:
        """The axes of x that scale and bias have: the first one and the end."""
        if not self.second:
            return self.axis_range.of(inputs[0])
        span = self.axis_range.second(*inputs)
        if self.bias:
            # Caffe checks the axis of a learned bias even where the bias is a scalar.
            replace(self.axis_range, count=len(inputs[1])).of(inputs[0])
        return span

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        self._span(*inputs)
        return inputs[:1]

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        start, end = self._span(*inputs)
        shape = inputs[0][start:end]
        scale = () if self.second else (Blob(shape, self.scale_filler),)
        return (*scale, Blob(shape, self.bias_filler)) if self.bias else scale

    def names(self) -> tuple[str, ...]:
        return ("bias",) if self.second else ("scale", "bias")

    def layouts(self, *inputs: Operand) -> Layouts:
        if not self.second:
            return Layouts((inputs[0].layout,), (inputs[0].layout,))
        x, other = inputs
        return joined(x, other, self._span(*shapes(inputs))[0])

    def initializers(self, at: Site) -> dict[str, Code | None]:
        """The fillers of the blobs as arguments, where `at.initialise` is set."""
        inits = {}
        blobs = self.blobs(*shapes(at.inputs))
        for name, blob in zip(self.names(), blobs, strict=False):
            usual = ONES if name == "scale" else ZEROS
            init = initializer(at.initialise, blob.filler, blob.shape, usual)
            inits[f"{name}_init"] = init
        return inits

    def build(self, at: Site) -> Call | None:
        if self.second and not self.bias:
            return None
        shape, lacking = arranged(at.input, *self._span(*shapes(at.inputs)))
        return Call.of(
            "Bias" if self.second else "Scale",
            *((shape, lacking) if lacking else (shape,)),
            use_bias=None if self.second else self.bias,
            **self.initializers(at),
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        if not self.second:
            return f"{at.module}({at.x})"
        x, scale = at.operands
        top = f"{x} * {expanded(at.input, scale, *self._span(*shapes(at.inputs)))}"
        return f"{at.module}({top})" if self.bias else top

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        start, _ = self._span(*shapes(at.inputs))
        named = zip(self.names(), blobs, strict=False)
        return {name: at.input.arrange_blob(blob, start) for name, blob in named}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        start, _ = self._span(*(x.shape for x in inputs))
        operands = [*inputs, *blobs]
        top: Array = operands[0] * along(operands[1], inputs[0], start)
        return top + along(operands[2], top, start) if self.bias else top
