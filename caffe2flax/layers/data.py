"""Input and data layers: inputs of the generated module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from caffe2flax.errors import UnknownShape, ambiguous
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.layer import Arity
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._fields import blob_shape


@layer("Input", "input_param")
@dataclass(frozen=True, slots=True)
class Input(Source):
    """An argument of the module."""

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
    tops: ClassVar[Arity] = 2

    top_names: tuple[str, ...]
    batch: int
    channels: int = 0
    height: int = 0
    width: int = 0

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return tuple(self.top_shape(top) for top in range(len(self.top_names)))

    def top_shape(self, top: int) -> Shape:
        shape = (self.batch, self.channels, self.height, self.width)
        known = (self.batch,) if top else shape
        if 0 not in known:
            return known
        blob = self.top_names[top]
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

    tops = (1, 2)

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "rand_skip", "prefetch", "force_encoded_color")
        params.choice("backend", "LEVELDB", "LMDB")
        _superseded(params)
        crop = params.transform.crop_size if params.transform else 0
        channels = _decoded_channels(params)
        if crop and not channels:
            channels = 3
            blob = _blobs(params)[0]
            params.note(
                f"{blob}: taken to have 3 channels, which its database says; "
                f"--input-shape {blob}=N,C,H,W decides otherwise"
            )
        return cls(_blobs(params), _size(params, "batch_size"), channels, crop, crop)


def _decoded_channels(params: Params) -> int:
    """The number of channels that the transformation implies; 0 where unknown."""
    transform = params.transform
    if transform is None:
        return 0
    if transform.force_color is not transform.force_gray:
        return 3 if transform.force_color else 1
    return len(transform.mean_value) if len(transform.mean_value) > 1 else 0


@layer("ImageData", "image_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class ImageData(Stored):
    """Images from files, as an argument of the module."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "rand_skip", "shuffle", "root_folder")
        _superseded(params)
        batch = _size(params, "batch_size", 1)
        if not batch:
            params.error("batch_size", "batch_size must be positive")
        height, width = _size(params, "new_height"), _size(params, "new_width")
        if bool(height) is not bool(width):
            params.error(None, "give both new_height and new_width, or neither")
        channels = 3 if params.get("is_color", True) else 1
        transform = params.transform
        means = len(transform.mean_value) if transform else 0
        if means not in (0, 1, channels):
            text = f"{means} values of mean_value for {channels} channels"
            params.error(None, f"{text}: give 1 or one each")
        crop = transform.crop_size if transform else 0
        if crop and 0 < min(height, width) < crop:
            text = f"crop_size {crop} exceeds the image, {height} x {width}"
            params.error("new_height", text)
        return cls(_blobs(params), batch, channels, crop or height, crop or width)


@layer("WindowData", "window_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class WindowData(Stored):
    """Windows of images, warped to crop_size, as an argument of the module."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "fg_threshold", "bg_threshold", "fg_fraction")
        params.ignore("context_pad", "crop_mode", "cache_images", "root_folder")
        _superseded(params)
        transform = params.transform
        crop = transform.crop_size if transform else 0
        if not crop:
            params.error(None, "windows need crop_size in transform_param")
        means = len(transform.mean_value) if transform else 0
        channels = means if means > 1 else 3
        return cls(_blobs(params), _size(params, "batch_size"), channels, crop, crop)


@layer("MemoryData", "memory_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class MemoryData(Stored):
    """Arrays that the caller provides, as arguments of the module."""

    training_data = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        names = ("batch_size", "channels", "height", "width")
        sizes = [_size(params, name) for name in names]
        for name, size in zip(names, sizes, strict=True):
            if not size:
                params.error(name, f"MemoryData needs a positive {name}")
        return cls(_blobs(params), *sizes)


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
        return cls(_blobs(params), _size(params, "batch_size"))

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


def _blobs(params: Params) -> tuple[str, ...]:
    return params.parent.all("top", str) if params.parent else ()


def _size(params: Params, name: str, default: int = 0) -> int:
    size = params.get(name, default)
    if size < 0:
        params.error(name, f"{name} {size} is negative")
    return size


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
