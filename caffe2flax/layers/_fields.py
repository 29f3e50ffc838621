"""Parameter messages that several layer types have in common."""

from __future__ import annotations

from caffe2flax.errors import ConversionError
from caffe2flax.layers.fillers import Filler
from caffe2flax.layers.window import Window
from caffe2flax.layout import Shape
from caffe2flax.params import Params

FILLERS = (
    "constant",
    "gaussian",
    "positive_unitball",
    "uniform",
    "xavier",
    "msra",
    "bilinear",
)


def filler(params: Params, name: str, value: float = 0.0) -> Filler:
    """FillerParameter `name` of a layer; constant `value` where it is not given."""
    if not params.has(name):
        params.sub(name)
        return Filler("constant", value=value)
    return read_filler(params.sub(name))


def read_filler(given: Params) -> Filler:
    """A FillerParameter message."""
    type_ = given.get("type", "constant")
    if type_ not in FILLERS:
        given.error("type", f"filler {type_!r} is none of {', '.join(FILLERS)}")
        type_ = "constant"
    return Filler(
        type_,
        value=given.get("value", 0.0),
        min=given.get("min", 0.0),
        max=given.get("max", 1.0),
        mean=given.get("mean", 0.0),
        std=given.get("std", 1.0),
        sparse=given.get("sparse", -1),
        variance_norm=given.choice("variance_norm", "FAN_IN", "FAN_OUT", "AVERAGE"),
    )


def blob_shape(params: Params) -> Shape:
    """A BlobShape message."""
    dims = params.all("dim", int)
    for dim in dims:
        if dim < 0:
            params.error("dim", f"dim {dim} is negative")
    return dims


def per_axis(params: Params, name: str, short: str) -> tuple[int, ...]:
    """kernel, stride, pad: one number for all axes, one an axis, or `*_h` and `*_w`.

    `name` is the repeated field, `short` the stem of the two others. Empty where
    nothing is given.
    """
    repeated = params.all(name, int)
    pair = [params.optional(f"{short}_{side}", int) for side in "hw"]
    if repeated and any(x is not None for x in pair):
        params.error(name, f"give {name} or {short}_h and {short}_w, not both")
    given = [x for x in pair if x is not None]
    if len(given) == 1:
        params.error(None, f"give both {short}_h and {short}_w")
    return tuple(given) or repeated


def spread(
    values: tuple[int, ...], rank: int, default: int, name: str
) -> tuple[int, ...]:
    """`values` for `rank` spatial axes. Raises ConversionError where the count is
    another."""
    if not values:
        return (default,) * rank
    if len(values) == 1:
        return values * rank
    if len(values) != rank:
        raise ConversionError(
            f"{name} has {len(values)} values for {rank} spatial axes: give 1 or {rank}"
        )
    return values


def windows(
    rank: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pad: tuple[int, ...],
    dilation: tuple[int, ...] = (),
) -> tuple[Window, ...]:
    """A Window for each of `rank` spatial axes. Raises ConversionError."""
    return tuple(
        Window(*values)
        for values in zip(
            spread(kernel, rank, 0, "kernel_size"),
            spread(stride, rank, 1, "stride"),
            spread(pad, rank, 0, "pad"),
            spread(dilation, rank, 1, "dilation"),
            strict=True,
        )
    )
