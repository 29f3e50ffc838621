"""What layer types of Caffe's forks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from caffe2flax.errors import ConversionError, UnknownShape, unsupported
from caffe2flax.ir.abilities import NotConverted, Source
from caffe2flax.ir.layer import Arity, Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params


def four_axes(shape: Shape) -> Shape:
    """`shape` with the axes that it lacks as 1. Raises ConversionError beyond four."""
    if len(shape) > 4:
        raise ConversionError(f"takes blobs of at most 4 axes, not {shape}")
    return (*shape, *(1,) * (4 - len(shape)))


def ignore_all(params: Params) -> None:
    """Marks every field of a message as read."""
    if params.message is not None:
        params.ignore(*(field.name for field in params.message.fields))


@dataclass(frozen=True, slots=True)
class TrainingOnly(Layer, NotConverted):
    """A layer that compares with ground truth: left out of the net.

    ConversionError where weights depend on it.
    """

    bottoms: ClassVar[Arity] = (0, None)
    tops: ClassVar[Arity] = (0, None)
    metric = True

    what: str = "This layer"

    @classmethod
    def parse(cls, params: Params) -> Self:
        ignore_all(params)
        return cls(cls.type)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        raise unsupported(
            f"{self.what} works on ground truth while a net is trained and is not "
            "converted: convert the net as TEST, or give the layer by a plug-in"
        )

    def call(self, at: Site) -> str:
        raise AssertionError("refused by `infer`")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("refused by `infer`")


class TrainingSource(Source):
    """A source of training data with a shape for each top."""

    __slots__ = ()

    training_data = True

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        raise ConversionError("a source has a shape for each top")


def unknown_shape(blob: str, where: str, batch: int = 1) -> UnknownShape:
    """The error for an input whose shape only the data has."""
    return UnknownShape(
        f"the shape of blob {blob!r} is in {where}, which is not opened: "
        f"give --input-shape {blob}=N,...",
        (batch,),
        more=True,
    )


def unknown_size(
    blob: str, where: str, known: Shape, letters: str = "N,C,H,W"
) -> UnknownShape:
    """The error for images whose size only the data has."""
    return UnknownShape(
        f"the size of blob {blob!r} is in {where}, which is not opened: "
        f"give --input-shape {blob}={letters}",
        known,
    )


def top_names(params: Params) -> tuple[str, ...]:
    """The names of the tops of the layer that has this parameter message."""
    return params.parent.all("top", str) if params.parent else ()


def positive(params: Params, name: str, default: int | None = None) -> int:
    """A field that must be positive; required unless it has a default."""
    value = params.require(name, int) if default is None else params.get(name, default)
    if value < 1 and params.has(name):
        params.error(name, f"{name} must be positive, not {value}")
    return max(value, 1)


def images(type_: str, shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ConversionError(f"{type_} needs a blob of 4 axes, not {shape}")
    return shape


def multiple(what: str, extent: int, factor: int) -> int:
    """extent / factor. Raises ConversionError where that is not an integer."""
    if extent % factor:
        raise ConversionError(f"{extent} {what} are no multiple of {factor}")
    return extent // factor


class Frames(Layer):
    """A layer of images, channels last."""

    __slots__ = ()

    in_place = False

    def layouts(self, *inputs: Operand) -> Layouts:
        last = Layout.channels_last(4)
        tops = len(self.infer(*(x.shape for x in inputs)))
        return Layouts((last,) * len(inputs), (last,) * tops)
