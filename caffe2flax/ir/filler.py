"""Caffe's weight fillers: the initial values of a weight blob."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem

TYPES = (
    "constant",
    "uniform",
    "gaussian",
    "positive_unitball",
    "xavier",
    "msra",
    "bilinear",
)
VARIANCE_NORMS = ("FAN_IN", "FAN_OUT", "AVERAGE")


@dataclass(frozen=True, slots=True)
class Filler:
    """A FillerParameter, with Caffe's defaults; n is the fan that variance_norm names.

    constant: value. uniform: U(min, max). gaussian: N(mean, std^2), of which `sparse`
    of shape[0] values are kept on average. positive_unitball: U(0, 1), divided by its
    sum over all axes but the first. xavier: U(-a, a), a = sqrt(3 / n).
    msra: N(0, 2 / n). bilinear: the kernel that interpolates by ceil(width / 2).

    Shapes are Caffe's throughout: (out, in / group, height, width) for a Convolution,
    (in, out / group, height, width) for a Deconvolution, (out, in) for an InnerProduct.
    Raises ConversionError, with all problems, where Caffe aborts whatever the shape.
    """

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: str = "FAN_IN"
    given: bool = field(default=False, compare=False)
    """Whether the file gives one; Caffe's default is zeros."""
    refused: tuple[Problem, ...] = ()
    """What is not known about it: an error once it has to fill a blob of a net that is
    trained or run."""

    def __post_init__(self) -> None:
        problems = []
        if self.type not in TYPES:
            known = ", ".join(TYPES)
            problems.append(f"unknown filler type {self.type!r}; known are {known}")
        if self.variance_norm not in VARIANCE_NORMS:
            known = ", ".join(VARIANCE_NORMS)
            problems.append(
                f"unknown variance_norm {self.variance_norm!r}; known are {known}"
            )
        if self.sparse < -1 or (self.sparse != -1 and self.type != "gaussian"):
            problems.append(f"filler {self.type} cannot be sparse: {self.sparse}")
        ends = (self.min, self.max, self.max - self.min)
        if self.type == "uniform" and not (
            self.min <= self.max and all(math.isfinite(_float32(end)) for end in ends)
        ):
            problems.append(f"no uniform filler from {self.min} to {self.max}")
        if self.type == "gaussian" and not (
            0 < _float32(self.std) < math.inf and math.isfinite(_float32(self.mean))
        ):
            problems.append(f"no gaussian filler of mean {self.mean}, std {self.std}")
        if problems:
            raise ConversionError(map(Problem, problems))

    def known(self) -> Filler:
        """This filler, to fill a blob. Raises ConversionError for one of a fork."""
        if self.refused:
            raise ConversionError(self.refused)
        return self

    def sample(
        self, shape: tuple[int, ...], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """A blob of Caffe's `shape`; Caffe's distribution, though not its numbers.

        Raises ConversionError where Caffe aborts on this shape.
        """
        self.known()._check(shape)
        match self.type:
            case "constant":
                return np.full(shape, _float32(self.value), np.float32)
            case "uniform":
                return _uniform(shape, self.min, self.max, rng)
            case "gaussian":
                drawn = _normal(shape, self.mean, self.std, rng)
                if self.sparse >= 0:
                    drawn *= rng.random(shape, np.float32) < self.sparse / shape[0]
                return drawn
            case "positive_unitball":
                # (0, 1] and not [0, 1), so that no sum is 0.
                drawn = 1 - rng.random(shape, np.float32)
                drawn /= drawn.sum(tuple(range(1, len(shape))), keepdims=True)
                return drawn
            case "xavier":
                bound = math.sqrt(3 / self.fan(shape))
                return _uniform(shape, -bound, bound, rng)
            case "msra":
                return _normal(shape, 0.0, math.sqrt(2 / self.fan(shape)), rng)
            case _:
                return np.broadcast_to(_tent(shape[-1]), shape).copy()

    def initializer(
        self, caffe_shape: tuple[int, ...], axes: tuple[int, ...] | None = None
    ) -> str:
        """The source of a JAX initializer with this distribution.

        caffe_shape: the blob's shape in Caffe.
        axes: the Flax kernel is the blob transposed by these; None leaves it as it is.
            (2, 3, 1, 0) for a Convolution, (1, 0) for an InnerProduct.
        Names are of `nnx`, or of functions in ops/initializers.py.
        Raises ConversionError where Caffe aborts on this shape.
        """
        self._check(caffe_shape)
        axes = tuple(range(len(caffe_shape))) if axes is None else axes
        match self.type:
            case "constant":
                return _constant(self.value)
            case "uniform":
                return _uniform_source(self.min, self.max)
            case "gaussian":
                return self._gaussian_source(axes)
            case "positive_unitball":
                return f"positive_unitball({_first_axis(axes)})"
            case "xavier":
                return self._scaling_source("1.0", "uniform", axes)
            case "msra":
                return self._scaling_source("2.0", "normal", axes)
            case _:
                # The kernel is symmetric: no matter which of the two is the height.
                spatial = sorted((axes.index(2), axes.index(3)))
                where = (
                    "" if spatial == [0, 1] else f"axes=({spatial[0]}, {spatial[1]})"
                )
                return f"bilinear({where})"

    def fan(self, shape: tuple[int, ...]) -> float:
        """n of xavier and msra. Caffe calls count / shape[0] the fan in, whatever the
        layer: for a Deconvolution, whose axis 0 counts inputs, it is the fan out."""
        count = math.prod(shape)
        fan_in = count / shape[0]
        fan_out = count / shape[1] if len(shape) > 1 else count
        if self.variance_norm == "FAN_IN":
            return fan_in
        return fan_out if self.variance_norm == "FAN_OUT" else (fan_in + fan_out) / 2

    def _check(self, shape: tuple[int, ...]) -> None:
        problems = []
        if not math.prod(shape):
            problems.append(f"filler {self.type} has nothing to fill in {shape}")
        needs_axis = self.type in ("positive_unitball", "xavier", "msra")
        if not shape and (needs_axis or self.sparse >= 0):
            problems.append(f"filler {self.type} needs an axis, but the blob has none")
        if shape and self.sparse > shape[0]:
            problems.append(f"sparse {self.sparse} is more than the {shape[0]} outputs")
        if self.type == "bilinear" and not (len(shape) == 4 and shape[2] == shape[3]):
            problems.append(f"filler bilinear needs a square 4-axis blob, not {shape}")
        if problems:
            raise ConversionError(map(Problem, problems))

    def _gaussian_source(self, axes: tuple[int, ...]) -> str:
        mean, std = _text(self.mean), _text(self.std)
        if self.sparse >= 0:
            where = _first_axis(axes)
            last = f", {where}" if where else ""
            return f"sparse_gaussian({mean}, {std}, sparse={self.sparse}{last})"
        if self.mean == 0:
            return f"nnx.initializers.normal({std})"
        return f"gaussian({mean}, {std})"

    def _scaling_source(self, scale: str, shape: str, axes: tuple[int, ...]) -> str:
        """JAX takes the last axis for the outputs and the one before for the inputs.
        Where `axes` puts Caffe's two in the opposite order, the fans swap names."""
        ends = axes[-2:]
        mode = {"FAN_IN": "fan_in", "FAN_OUT": "fan_out"}.get(
            self.variance_norm, "fan_avg"
        )
        where = ""
        if ends == (0, 1):
            swap = {"fan_in": "fan_out", "fan_out": "fan_in"}
            mode = swap.get(mode, mode)
        elif ends != (1, 0):
            inputs = axes.index(1) if 1 in axes else "()"
            where = f", in_axis={inputs}, out_axis={axes.index(0)}"
        return f'nnx.initializers.variance_scaling({scale}, "{mode}", "{shape}"{where})'


def _uniform(
    shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    drawn = rng.random(shape, np.float32)
    drawn *= np.float32(high - low)
    drawn += np.float32(low)
    return drawn


def _normal(
    shape: tuple[int, ...], mean: float, std: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    drawn = rng.standard_normal(shape, np.float32)
    drawn *= np.float32(std)
    drawn += np.float32(mean)
    return drawn


def _tent(width: int) -> NDArray[np.float32]:
    """The (width, width) bilinear kernel, in Caffe's order of float32 operations."""
    factor = np.float32(-(-width // 2))
    centre = np.float32((width - 1) / (2 * factor))
    side = 1 - np.abs(np.arange(width, dtype=np.float32) / factor - centre)
    return np.outer(side, side)


def _constant(value: float) -> str:
    text = _text(value)
    if text == "0.0":
        return "nnx.initializers.zeros_init()"
    if text == "1.0":
        return "nnx.initializers.ones_init()"
    return f"nnx.initializers.constant({text})"


def _uniform_source(low: float, high: float) -> str:
    if low == 0:
        return f"nnx.initializers.uniform({_text(high)})"
    return f"uniform_between({_text(low)}, {_text(high)})"


def _first_axis(axes: tuple[int, ...]) -> str:
    """The argument for the position of Caffe's axis 0; empty for the default."""
    position = axes.index(0)
    return "" if position == len(axes) - 1 else f"axis={position}"


def _float32(value: float) -> float:
    """`value` as a float field of a proto stores it; infinite beyond its range."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def _text(value: float) -> str:
    """The shortest literal that gives the same float32."""
    stored = np.float32(_float32(value))
    return repr(float(str(stored))) if np.isfinite(stored) else f'float("{stored}")'
