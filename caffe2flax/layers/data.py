"""Input and data layers: inputs of the generated module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from caffe2flax.errors import UnknownShape, ambiguous
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.common_fields import read_size
from caffe2flax.ir.layer import Arity
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import blob_shape
from caffe2flax.layers._forks import top_names
from caffe2flax.layers._images import channel_count, image_size, size


@layer("Input", "input_param")
@dataclass(frozen=True, slots=True)
class Input(Source):
    """An argument of the module."""

    reads_data = False

    shapes: tuple[Shape, ...] = ()
    count: int = 1

    @classmethod
    def parse(cls, params: Params) -> Self:
        shapes = tuple(blob_shape(shape) for shape in params.subs("shape"))
        if len(shapes) not in (0, 1, params.tops):
            params.error(
                "shape",
                f"{len(shapes)} shapes for {params.tops} tops: give 1 or one each",
            )
        return cls(shapes, params.tops)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if not self.shapes:
            raise ambiguous(
                "the input has no shape; give one with --input-shape BLOB=N,C,H,W"
            )
        return (
            self.shapes if len(self.shapes) == self.count else self.shapes * self.count
        )


@dataclass(frozen=True, slots=True)
class Stored(Source):
    """Images, each with a label, that Caffe reads from files or memory."""

    training_data = True
    tops: ClassVar[Arity] = (2, None)  # Caffe's own have no more than two

    top_names: tuple[str, ...]
    image: Shape
    """N, C, H, W; 0 for what only the data has."""
    tensor: bool = False
    """Labels have as many axes as the first top."""

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return tuple(self.top_shape(top) for top in range(len(self.top_names)))

    def top_shape(self, top: int) -> Shape:
        blob, batch = self.top_names[top], self.image[0]
        if top > 1:
            raise UnknownShape(
                f"the shape of blob {blob!r} is in its data, which is not opened: "
                f"give --input-shape {blob}=N,...",
                (batch,),
                more=True,
            )
        label = (batch, *(1,) * (len(self.image) - 1)) if self.tensor else (batch,)
        known = label if top else self.image
        if 0 not in known:
            return known
        unknown = [
            what
            for what, extent in zip(
                ("batch size", "number of channels", "height", "width"),
                known,
                strict=False,
            )
            if not extent
        ]
        like = f"{blob}=N" if top else f"{blob}=N,C,H,W"
        raise UnknownShape(
            f"the {_listed(unknown)} of blob {blob!r} "
            f"{'is' if len(unknown) == 1 else 'are'} in its data, which is not opened: "
            f"give --input-shape {like}",
            known,
        )


@layer("Data", "data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class Data(Stored):
    """Records of a database, as an argument of the module."""

    tops = (1, None)

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "rand_skip", "prefetch", "force_encoded_color")
        params.choice("backend", "LEVELDB", "LMDB")
        _superseded(params)
        channels, (height, width) = channel_count(params), image_size(params)
        blob = (*top_names(params), "")[0]
        if height and width and not channels and blob not in params.shapes:
            channels = 3
            params.note(
                f"{blob}: taken to have 3 channels, which its database says; "
                f"--input-shape {blob}=N,C,H,W decides otherwise"
            )
        batch = size(params, "batch_size")
        return cls(top_names(params), (batch, channels, height, width))


@layer("ImageData", "image_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class ImageData(Stored):
    """Images from files, as an argument of the module."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "rand_skip", "shuffle", "root_folder")
        _superseded(params)
        batch = size(params, "batch_size", 1)
        if not batch:
            params.error("batch_size", "batch_size must be positive")
        new = read_size(params, "new")
        if bool(new[0]) is not bool(new[1]):
            params.error(None, "give both new_height and new_width, or neither")
        color = 3 if params.get("is_color", True) else 1
        channels = size(params, "channels") or color
        transform = params.transform
        means = len(transform.mean_value) if transform else 0
        if means not in (0, 1, channels):
            text = f"{means} values of mean_value for {channels} channels"
            params.error(None, f"{text}: give 1 or one each")
        crop = transform.crop if transform else (0, 0)
        if all(new) and (new[0] < crop[0] or new[1] < crop[1]):
            shown = crop[0] if crop[0] == crop[1] else "{} x {}".format(*crop)
            text = f"crop_size {shown} exceeds the image, {new[0]} x {new[1]}"
            params.error("new_height", text)
        return cls(top_names(params), (batch, channels, *image_size(params)))


@layer("WindowData", "window_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class WindowData(Stored):
    """Windows of images, warped to crop_size, as an argument of the module."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "fg_threshold", "bg_threshold", "fg_fraction")
        params.ignore("context_pad", "crop_mode", "cache_images", "root_folder")
        _superseded(params)
        crop = image_size(params)
        if not all(crop):
            params.error(None, "windows need crop_size in transform_param")
        channels = channel_count(params) or 3
        batch = size(params, "batch_size")
        return cls(top_names(params), (batch, channels, *crop))


@layer("MemoryData", "memory_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class MemoryData(Stored):
    """Arrays that the caller provides, as arguments of the module."""

    training_data = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        names = ("batch_size", "channels", "height", "width")
        dims = params.all("dim", int)
        if dims:  # naibaf7's, in place of the other fields
            params.ignore(*names)
            if min(dims) < 1:
                params.error("dim", f"dim must be positive, not {min(dims)}")
            return cls(top_names(params), tuple(max(dim, 1) for dim in dims), True)
        sizes = [size(params, name) for name in names]
        for name, extent in zip(names, sizes, strict=True):
            if not extent:
                params.error(name, f"MemoryData needs a positive {name}")
        return cls(top_names(params), tuple(sizes))


@layer("HDF5Data", "hdf5_data_param")
@dataclass(frozen=True, slots=True)
class HDF5Data(Source):
    """Arrays from HDF5 files, as arguments of the module."""

    training_data = True

    top_names: tuple[str, ...]
    batch: int

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "shuffle")
        if params.transform is not None:
            params.error(None, "HDF5Data does not transform data: no transform_param")
        return cls(top_names(params), size(params, "batch_size"))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return tuple(self.top_shape(top) for top in range(len(self.top_names)))

    def top_shape(self, top: int) -> Shape:
        blob = self.top_names[top]
        raise UnknownShape(
            f"the shape of blob {blob!r} is in HDF5 files, which are not opened: "
            f"give --input-shape {blob}=N,...",
            (self.batch,),
            more=True,
        )


def _superseded(params: Params) -> None:
    """Reads fields that moved to `transform_param`: Caffe ignores them in a current
    net."""
    for name in ("scale", "mean_file", "crop_size", "mirror"):
        params.ignore(name)
        if params.has(name):
            params.note(
                f"{params.span(name)}: {name} has no meaning in {params.name}, but in "
                "transform_param; Caffe passes it over, and so do we"
            )


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
