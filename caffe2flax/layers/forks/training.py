"""Layers of Caffe's forks that only training uses: data, losses and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from caffe2flax.frontend.message import Message
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import family, layer
from caffe2flax.layers._forks import (
    TrainingOnly,
    TrainingSource,
    ignore_all,
    top_names,
    unknown_shape,
    unknown_size,
)
from caffe2flax.layers._images import image_size
from caffe2flax.layers._targets import Target


@layer("DenseImageData", "dense_image_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class DenseImageData(TrainingSource):
    """Images and a label for each pixel, as arguments of the module."""

    tops = (2, None)

    top_names: tuple[str, ...]
    batch: int
    channels: int
    size: tuple[int, int]
    divisor: int = 1
    """The size of images divided by that of labels."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "rand_skip", "shuffle", "root_folder", "mean_file")
        params.ignore("mirror")
        batch = params.get("batch_size", 1)
        if batch < 1:
            params.error("batch_size", f"batch_size must be positive, not {batch}")
        size = image_size(params)
        channels = 3 if params.get("is_color", True) else 1
        factor = params.get("label_divide_factor", 1)
        if factor < 1:
            params.error("label_divide_factor", "label_divide_factor must be positive")
        return cls(top_names(params), batch, channels, size, max(factor, 1))

    def top_shape(self, top: int) -> Shape:
        blob = self.top_names[top]
        if top > 1:
            raise unknown_shape(blob, "a list of images", self.batch)
        if 0 in self.size:
            known = (self.batch, 1 if top else self.channels, *self.size)
            letters = "N,1,H,W" if top else "N,C,H,W"
            raise unknown_size(blob, "a list of images", known, letters)
        if top:
            rows, columns = (extent // self.divisor for extent in self.size)
            return (self.batch, 1, rows, columns)
        return (self.batch, self.channels, *self.size)


@family(r".*(data|reader).*|(mat|img|image|float)read")
@dataclass(frozen=True, slots=True)
class OtherData(TrainingSource):
    """The tops of an unknown layer without bottoms and with a type named after data, as
    arguments of the module."""

    top_names: tuple[str, ...]
    type_: str
    image: Shape

    @classmethod
    def parse(cls, params: Params) -> Self:
        line = params.parent
        assert line is not None, "a type without messages of its own"
        assert line.message is not None, "a layer that was read"
        line.note(
            f"{line.span('type')}: {params.name} is unknown; by its name and place its "
            "tops are data from outside"
        )
        numbers = {
            "batch_size": 1,
            "crop_size": 0,
            "new_height": 0,
            "new_width": 0,
            "new_length": 0,
        }
        for field in line.message.fields:
            line.ignore(field.name)
            if not isinstance(field.value, Message):
                continue
            given = Params(field.name, field.value, problems=line.problems)
            numbers |= {n: given.get(n, d) for n, d in numbers.items() if given.has(n)}
        batch, crop, height, width, length = numbers.values()
        voxels = "VOXEL" in params.name.upper()
        frames = (length,) if length or voxels else ()
        image = (max(batch, 1), 3, *frames, crop or height, crop or width)
        return cls(top_names(params), params.name, image)

    def top_shape(self, top: int) -> Shape:
        blob, where = self.top_names[top], f"the data of a {self.type_}"
        if top:
            raise unknown_shape(blob, where, self.image[0])
        if 0 in self.image:
            letters = "N,C,H,W" if len(self.image) == 4 else "N,C,L,H,W"
            raise unknown_size(blob, where, self.image, letters)
        return self.image


class Unknown(TrainingOnly):
    """A loss or a score that only training needs."""

    __slots__ = ()

    bottoms = (1, None)

    @classmethod
    def parse(cls, params: Params) -> Self:
        line = params.parent
        if line is not None and line.message is not None:
            line.ignore(*(field.name for field in line.message.fields))
        return cls(params.name)


@family(r".*loss.*")
class OtherLoss(Unknown):
    """A loss of a fork: training only."""

    __slots__ = ()

    default_loss = 1.0


@layer("EvalDetection")
@layer("BboxEvaluate")
@layer("Recall")
@family(r".*(accuracy|evaluat|precision|confusion).*")
class OtherScore(Unknown):
    """A score of a fork: training only."""

    __slots__ = ()


@family(r"labelspecific.*|.*margin.*|reshapelabel|.*target")
class OtherTarget(Unknown):
    """Targets that a fork computes from labels: training only."""

    __slots__ = ()


@layer("BlackHole")
@family(r"(mat|img|image|flo|float|pfm|csv|text)?writ(e|er)")
class FileOutput(Unknown):
    """Nothing: a file that a fork writes is not part of the net."""

    __slots__ = ()

    tops = 0


@layer("DetectNetTransformation", "detectnet_groundtruth_param", "transform_param")
@dataclass(frozen=True, slots=True)
class DetectNetTransformation(Target):
    """Images and maps of their boxes as DetectNet needs them, computed by the
    caller."""

    bottoms = 2
    tops = 2
    metric = False
    in_place = False

    size: Shape
    stride: int
    classes: int

    @classmethod
    def parse(cls, params: Params) -> Self:
        size = params.get("image_size_y", 384), params.get("image_size_x", 1248)
        stride = params.get("stride", 4)
        for name, value in zip(
            ("image_size_y", "image_size_x", "stride"), (*size, stride), strict=True
        ):
            if value < 1:
                params.error(name, f"{name} must be positive, not {value}")
        mapped = params.subs("object_class")
        targets = [given.require("dst", int) for given in mapped]
        for given in mapped:
            given.ignore("src")
        ignore_all(params)
        if params.parent is not None:
            # How images are varied in training.
            params.parent.ignore("detectnet_augmentation_param")
        return cls(size, max(stride, 1), max(targets, default=0) + 1)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        count = inputs[0][0] if inputs[0] else 1
        rows, columns = (round(extent / self.stride) for extent in self.size)
        return ((count, 3, *self.size), (count, 8 + self.classes, rows, columns))


@layer("Yolov3")
@layer("GaussianYolov3")
@layer("YoloSeg")
class YoloLoss(Unknown):
    """A loss of YOLO: training only."""

    __slots__ = ()

    default_loss = 1.0
