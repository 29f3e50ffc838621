"""Layers of SSD that only training uses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Self

from caffe2flax.ir.classes import ScoresByClass
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import (
    TrainingOnly,
    TrainingSource,
    ignore_all,
    positive,
    top_names,
    unknown_shape,
    unknown_size,
)
from caffe2flax.layers._images import image_size, size
from caffe2flax.layers.forks._detections import count_priors


@dataclass(frozen=True, slots=True)
class Annotated(TrainingSource):
    """Images and their ground truth, read from files."""

    tops = (1, None)

    top_names: tuple[str, ...]
    where: str
    image: Shape = ()

    def top_shape(self, top: int) -> Shape:
        blob = self.top_names[top]
        if top:
            raise unknown_shape(blob, self.where, self.image[0])
        if 0 in self.image:
            raise unknown_size(blob, self.where, self.image)
        return self.image


@layer("AnnotatedData", "data_param", "transform_param", "annotated_data_param")
class AnnotatedData(Annotated):
    """Images and their boxes from a database, as arguments of the module."""

    __slots__ = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        params.ignore("source", "rand_skip", "prefetch", "force_encoded_color")
        params.choice("backend", "LEVELDB", "LMDB")
        return cls(top_names(params), "a database", _image(params))


@layer("VideoData", "video_data_param", "data_param", "transform_param")
class VideoData(Annotated):
    """Frames of a video, as an argument of the module."""

    __slots__ = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        ignore_all(params)
        line = params.parent
        assert line is not None
        data = line.sub("data_param")
        ignore_all(data)
        length = params.get("new_length", 0)
        if any(map(params.has, ("num_segments", "modality", "name_pattern"))):
            return cls(top_names(params), "videos", _segments(params))
        if not length:
            return cls(top_names(params), "a video", _image(data))
        # C3D's clips, whose fields are in a message of their own.
        n, c, height, width = _image(params)
        new = params.get("new_height", 0), params.get("new_width", 0)
        size = (height or new[0], width or new[1])
        return cls(top_names(params), "videos", (n, c, length, *size))


def _segments(params: Params) -> Shape:
    """(N, C, H, W) of Temporal Segment Networks, 0 for unknown extents: the frames of
    all segments are channels."""
    n, _, *size = _image(params)
    colours = 1 if params.get("grayscale", False) else 3
    if params.choice("modality", "RGB", "FLOW", default="FLOW") == "FLOW":
        colours = 2
    counts = (positive(params, name, 1) for name in ("new_length", "num_segments"))
    return (n, colours * prod(counts), *size)


def _image(params: Params) -> Shape:
    """(N, C, H, W), 0 for unknown extents."""
    batch = params.get("batch_size", 1)
    if batch < 1:
        params.error("batch_size", f"batch_size must be positive, not {batch}")
    gray = params.transform is not None and params.transform.force_gray
    channels = size(params, "channels") or (1 if gray else 3)
    return (batch, channels, *image_size(params))


@layer("MultiBoxLoss", "multibox_loss_param", "loss_param")
@dataclass(frozen=True, slots=True)
class MultiBoxLoss(TrainingOnly, ScoresByClass):
    """The loss of an SSD detector against the true boxes: training only."""

    bottoms = (4, None)
    default_loss = 1.0

    num_classes: int = 0
    share_location: bool = True

    @classmethod
    def parse(cls, params: Params) -> Self:
        classes = params.require("num_classes", int)
        share = params.get("share_location", True)
        ignore_all(params)
        return cls(cls.type, classes, share)

    @property
    def scored(self) -> tuple[tuple[int, ...], int]:
        return (1,) if self.share_location else (0, 1), self.num_classes

    def with_classes(self, count: int, other: int) -> MultiBoxLoss | None:
        return replace(self, num_classes=other) if count == self.num_classes else None

    def compare(self, *inputs: Shape | None) -> None:
        loc, conf, prior = inputs[:3]
        if loc is not None and conf is not None and prior is not None:
            count_priors(loc, conf, prior, self.num_classes, self.share_location)


@layer("DetectionEvaluate", "detection_evaluate_param")
class DetectionEvaluate(TrainingOnly):
    """Compares detections with the true boxes: test of training only."""

    __slots__ = ()
