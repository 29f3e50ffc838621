"""Layers of MS-CNN that only training uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import (
    TrainingOnly,
    TrainingSource,
    ignore_all,
    top_names,
    unknown_shape,
    unknown_size,
)
from caffe2flax.layers._targets import Target


@layer("ImageGtData", "image_gt_data_param", "transform_param")
@dataclass(frozen=True, slots=True)
class ImageGtData(TrainingSource):
    """Images, the targets of each cell of the maps, and the true boxes."""

    top_names: tuple[str, ...]
    image: Shape
    rates: tuple[int, ...]
    coordinates: int = 4

    @classmethod
    def parse(cls, params: Params) -> Self:
        batch = params.get("batch_size", 1)
        if batch < 1:
            params.error("batch_size", f"batch_size must be positive, not {batch}")
        size = []
        for side in ("height", "width"):
            crop = params.get(f"crop_{side}", 0)
            size.append(crop or params.get(f"resize_{side}", 0))
        rates = params.all("downsample_rate", int)
        if not all(rate > 0 for rate in rates):
            params.error("downsample_rate", "downsample_rate must be positive")
            rates = ()
        coordinates = params.get("coord_num", 4)
        ignore_all(params)
        return cls(top_names(params), (batch, 3, *size), rates, coordinates)

    def top_shape(self, top: int) -> Shape:
        if 0 in self.image:
            blob = self.top_names[top]
            if top:
                raise unknown_shape(blob, "a list of images", self.image[0])
            raise unknown_size(blob, "a list of images", self.image)
        if top == 0:
            return self.image
        if top > len(self.rates):
            return (1, 7, 1, 1)
        batch, _, height, width = self.image
        rate = self.rates[top - 1]
        return (batch, 2 + self.coordinates, height // rate, width // rate)


@layer("ProposalTarget", "proposal_target_param", "bbox_reg_param")
@dataclass(frozen=True, slots=True)
class ProposalTarget(Target):
    """Proposals sampled by their overlap with ground truth, and targets for each."""

    bottoms = (2, None)
    tops = (6, 7)

    batch: int = 128
    each: int = 0
    """Numbers of a target: 4 for each class, or 8."""
    weighted: bool = False

    @classmethod
    def parse(cls, params: Params) -> Self:
        batch = params.get("batch_size", 128)
        if batch < 1 and batch != -1:
            params.error("batch_size", f"batch_size must be positive, not {batch}")
        classes = params.require("cls_num", int)
        ignore_all(params)
        assert params.parent is not None
        normal = params.parent.sub("bbox_reg_param")
        aware = normal.get("cls_aware", True)
        ignore_all(normal)
        return cls(batch, 4 * classes if aware else 8, params.tops > 6)

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        count = inputs[0][0] if self.batch < 0 else self.batch
        targets = (self.each,) * 3
        channels = (5, 1, *targets, 6, *((1,) if self.weighted else ()))
        return tuple((count, c, 1, 1) for c in channels)


@layer("DetectionLoss", "detection_loss_param", "loss_param")
class DetectionLoss(TrainingOnly):
    """The loss of randomly sampled cells of a map: training only."""

    __slots__ = ()

    default_loss = 1.0


@layer("Detection", "detection_param", "loss_param")
class Detection(TrainingOnly):
    """DetectionLoss under its older name: training only."""

    __slots__ = ()

    default_loss = 1.0


@layer("DetectionAccuracy", "detection_accuracy_param")
class DetectionAccuracy(TrainingOnly):
    """Counts cells with the right prediction: test of training only."""

    __slots__ = ()


@layer("BboxAccuracy", "bbox_accuracy_param", "bbox_reg_param")
class BboxAccuracy(TrainingOnly):
    """How well boxes fit: test of training only."""

    __slots__ = ()
