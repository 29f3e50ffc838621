"""Parameter messages that several layer types have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from caffe2flax.errors import ConversionError, Problem, is_misspelt
from caffe2flax.ir.call import Call, Code
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Blob, Site, canonical_axis
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.window import Window
from caffe2flax.layers._sides import AS_GIVEN, Sides, read_sides

FILLERS = (
    "constant",
    "gaussian",
    "positive_unitball",
    "uniform",
    "xavier",
    "msra",
    "bilinear",
)

FILLER_FIELDS = (
    "type",
    "value",
    "min",
    "max",
    "mean",
    "std",
    "sparse",
    "variance_norm",
)


def filler(params: Params, name: str, value: float = 0.0) -> Filler:
    """FillerParameter `name` of a layer; constant `value` where it is not given."""
    if not params.has(name):
        params.sub(name)
        return Filler("constant", value=value)
    return read_filler(params.sub(name))


def read_filler(given: Params) -> Filler:
    """A FillerParameter message. Types and fields of forks are noted, as they only say
    where training starts; they are an error where they fill a blob of a net that is
    trained or run."""
    type_ = given.get("type", "constant")
    known = type_ in FILLERS
    refused = []
    if not known:
        text = f"filler {type_!r} is none of {', '.join(FILLERS)}"
        refused.append(Problem(text, given.span("type"), "unsupported"))
        type_ = "constant"
    fields = given.message.fields if given.message else ()
    for name in dict.fromkeys(f.name for f in fields):
        if name not in FILLER_FIELDS and not is_misspelt(name, FILLER_FIELDS):
            given.ignore(name)
            text = f"{name} in {given.name} is not known to Caffe's fillers"
            refused.append(Problem(text, given.span(name), "unsupported"))
    for problem in refused:
        given.note(
            f"{problem.span}: {problem.message}; it only says where training starts: "
            "passed over"
        )
    return Filler(
        type_,
        value=given.get("value", 0.0),
        min=given.get("min", 0.0),
        max=given.get("max", 1.0),
        mean=given.get("mean", 0.0),
        std=given.get("std", 1.0),
        sparse=given.get("sparse", -1),
        variance_norm=given.choice("variance_norm", "FAN_IN", "FAN_OUT", "AVERAGE"),
        given=known,
        refused=tuple(refused),
    )


def older_or_own(params: Params, older: str) -> Params:
    """The message `older` of the layer, where that is given and its own is not."""
    if params.message is not None or params.name == older or params.parent is None:
        return params
    message = params.parent.sub(older)
    return message if message.message is not None else params


def blob_shape(params: Params) -> Shape:
    """A BlobShape message."""
    dims = params.all("dim", int)
    for dim in dims:
        if dim < 0:
            params.error("dim", f"dim {dim} is negative")
    return dims


def pair(params: Params, single: str, short: str) -> tuple[int, ...]:
    """One number for all axes, one for each axis (in forks), or `*_h` and `*_w`, as
    Pooling has them; empty where none is given."""
    repeated = params.all(single, int)
    if len(repeated) == 2:
        params.error(single, f"{single} is given twice in {params.name}")
    sides = [params.optional(f"{short}_{side}", int) for side in "hw"]
    given = tuple(side for side in sides if side is not None)
    if repeated and given:
        params.error(single, f"give {single} or {short}_h and {short}_w, not both")
    if len(given) == 1:
        params.error(None, f"give both {short}_h and {short}_w")
    return given or repeated


@dataclass(frozen=True, slots=True)
class Sliding:
    """The windows of a ConvolutionParameter, along the axes after `axis`."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    axis: int = 1
    sides: Sides = AS_GIVEN

    @classmethod
    def parse(cls, params: Params, *, sides: bool = False) -> Sliding:
        """`engine` and `force_nd_im2col` are ignored: the result is the same.

        sides: whether the type has pads for each side in Synopsys' fork.
        """
        params.ignore("engine", "force_nd_im2col")
        params.suggest("kernel_size")
        # Of video-caffe: a number for each axis.
        shapes = (
            blob_shape(params.sub(f"{name}_shape"))
            for name in ("kernel", "stride", "pad")
        )
        kernel, stride, pad = shapes
        return cls(
            kernel or _per_axis(params, "kernel_size", "kernel"),
            stride or _per_axis(params, "stride", "stride"),
            pad or _per_axis(params, "pad", "pad", missing=0),
            params.all("dilation", int),
            params.get("axis", 1),
            read_sides(params, signed=True) if sides else AS_GIVEN,
        )

    def channel_axis(self, shape: Shape) -> int:
        """The axis of channels, not negative. Raises ConversionError."""
        return canonical_axis(self.axis, len(shape))

    def windows(self, shape: Shape) -> tuple[Window, ...]:
        """A Window for each spatial axis of a blob; where there is none, no kernel_size
        is needed. Raises ConversionError."""
        sizes = shape[self.channel_axis(shape) + 1 :]
        if sizes and not self.kernel:
            raise ConversionError("kernel_size is missing")
        given = self.kernel, self.stride, self.pad, self.dilation
        return self.sides.around(windows(len(sizes), *given), sizes)


def _per_axis(
    params: Params, name: str, short: str, missing: int | None = None
) -> tuple[int, ...]:
    """One number for all axes, one for each axis (repeated), or `*_h` and `*_w`, of
    which one may be left out where `missing` is its default. Empty where nothing is
    given."""
    repeated = params.all(name, int)
    sides = [params.optional(f"{short}_{side}", int) for side in "hw"]
    if all(side is None for side in sides):
        return repeated
    if repeated:
        params.error(name, f"give {name} or {short}_h and {short}_w, not both")
    if None in sides and missing is None:
        params.error(None, f"give both {short}_h and {short}_w")
    return tuple(missing or 0 if side is None else side for side in sides)


def spread(
    values: tuple[int, ...], rank: int, default: int, name: str
) -> tuple[int, ...]:
    """`values`, one for each of `rank` spatial axes. Raises ConversionError where there
    are neither one nor `rank` of them."""
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


def count_outputs(params: Params, of_weight: Callable[[Shape], int]) -> int:
    """num_output; where the file leaves it out, that of the bias in the weight files,
    or what `of_weight` says of the shape of their first blob."""
    assert params.parent is not None
    shapes = params.weights.get(params.parent.get("name", ""), ())
    if not params.has("num_output") and not params.weights:
        params.missing(
            "num_output",
            f"{params.name} needs num_output; a file of weights may give it, too",
        )
        return 0
    if params.has("num_output") or not shapes:
        num_output = params.require("num_output", int)
        if num_output < 1 and params.has("num_output"):
            params.error("num_output", f"num_output must be positive, not {num_output}")
        return num_output
    num_output = prod(shapes[1]) if len(shapes) > 1 else of_weight(shapes[0])
    where = params.span() or params.parent.span()
    params.note(f"{where}: num_output is not given; the weights have {num_output}")
    return max(num_output, 1)


def output_counts(params: Params, *, transposed: bool = False) -> tuple[int, int]:
    """num_output and group of a Convolution, or of a Deconvolution, which is
    `transposed`."""
    group = params.get("group", 1)
    if group < 1:
        params.error("group", f"group must be positive, not {group}")
        group = 1

    def outputs(weight: Shape) -> int:
        first = (weight[1:2] if transposed else weight[:1]) or (1,)
        return first[0] * (group if transposed else 1)

    num_output = count_outputs(params, outputs)
    if num_output % group:
        params.error(
            "group", f"num_output {num_output} is no multiple of group {group}"
        )
    return num_output, group


def one_shape(inputs: tuple[Shape, ...]) -> Shape:
    """The shape of all bottoms. Raises ConversionError where they differ."""
    if len(set(inputs)) > 1:
        shapes = ", ".join(map(str, inputs))
        raise ConversionError(f"all bottoms must have one shape, not {shapes}")
    return inputs[0]


def kernel_axes(rank: int) -> tuple[int, ...]:
    """The axes that transpose a blob (out, in, *window) to Flax's (*window, in,
    out)."""
    return (*range(2, rank), 1, 0)


def initialisers(
    at: Site, blobs: tuple[Blob, ...], kernel_init: Code | Call
) -> dict[str, object]:
    """The initializer arguments of an nnx module for the fillers of its kernel and
    bias; a kernel without a filler in the file has Flax's default, unless
    `at.zeros`."""
    if not at.initialise:
        return {}
    inits: dict[str, object] = {}
    if blobs[0].filler.given or at.zeros:
        inits["kernel_init"] = kernel_init
    if len(blobs) > 1 and blobs[1].filler != Filler():
        inits["bias_init"] = Code(blobs[1].filler.initializer(blobs[1].shape))
    return inits
