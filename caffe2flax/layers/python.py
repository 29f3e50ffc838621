"""Layers of `type: "Python"` that are known by module and class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Stochastic
from caffe2flax.ir.call import Call, arguments, literal
from caffe2flax.ir.layer import Array, Elementwise, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import (
    TrainingOnly,
    TrainingSource,
    top_names,
    unknown_shape,
    unknown_size,
)
from caffe2flax.layers._python import PYTHON, numbers, options, python_layer
from caffe2flax.layers._targets import Sampled, Target


@layer("Python", "python_param")
class Python(Layer):
    """A layer in Python code: one that is known by its name, or an error."""

    __slots__ = ()

    bottoms = (0, None)
    tops = (0, None)

    @classmethod
    def parse(cls, params: Params) -> Layer:
        # Whether GPUs share it: does not change the result.
        params.ignore("share_in_parallel", "param_str")
        module, name = params.require("module", str), params.require("layer", str)
        read = PYTHON.get((module, name))
        if read is not None:
            return read(params)
        if not params.bottoms:
            params.note(
                f"{params.span()}: the Python layer {name!r} of {module!r} has no "
                "bottoms: its tops are data from outside"
            )
            return PythonData(top_names(params), name)
        if TRAINED_WITH.search(name):
            return Training(f"The Python layer {name}")
        params.unsupported(
            "layer",
            f"the Python layer {name!r} of {module!r} is code that is not imported; "
            "give a plug-in that says what it computes, or put layers in its place",
        )
        return Training(name)


TRAINED_WITH = re.compile("loss|accuracy|evaluat|debug", re.IGNORECASE)
"""Parts of class names that only layers for training have."""


@dataclass(frozen=True, slots=True)
class PythonData(TrainingSource):
    """Data that Python code reads, as arguments of the module."""

    top_names: tuple[str, ...]
    name: str

    def top_shape(self, top: int) -> Shape:
        where = f"the data of the Python layer {self.name}"
        raise unknown_shape(self.top_names[top], where)


@dataclass(frozen=True, slots=True)
class Training(TrainingOnly):
    """A Python layer that compares with ground truth."""


@python_layer("caffe.layers.detectnet.clustering", "ClusterGroundtruth")
@python_layer("caffe.layers.detectnet.mean_ap", "ScoreDetections", "mAP")
def _training(params: Params) -> Layer:
    params.ignore("param_str")
    return Training(params.get("layer", ""))


@dataclass(frozen=True, slots=True)
class AnchorTarget(Target):
    """Training targets for a sample of the anchors of a region proposal network."""

    tops = 4

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        scores = inputs[0]
        if len(scores) != 4 or scores[1] % 2:
            raise ConversionError(f"needs scores (1, 2 anchors, H, W), not {scores}")
        _, channels, height, width = scores
        count = channels // 2
        boxes = (1, 4 * count, height, width)
        return ((1, 1, count * height, width), boxes, boxes, boxes)


@python_layer("rpn.anchor_target_layer", "AnchorTargetLayer")
@python_layer("SSH.layers.anchor_target_layer", "AnchorTargetLayer")
def _anchor_target(params: Params) -> Layer:
    params.ignore("param_str")
    return AnchorTarget()


@python_layer("rpn.proposal_target_layer", "ProposalTargetLayer")
@python_layer("rpn.proposal_layer", "ProposalLayer2")
def _proposal_target(params: Params) -> Layer:
    known = ("num_classes", "feat_stride", "ratios", "scales")
    (classes, *_) = numbers(params, options(params, *known), "num_classes")
    return Sampled(_regions(params.tops, int(classes)))


REGIONS = 128
"""How many regions py-faster-rcnn samples in training by default."""


def _regions(tops: int, classes: int) -> tuple[Shape, ...]:
    """Shapes of sampled regions, their labels, targets and weights."""
    targets = ((REGIONS, 4 * classes),) * max(tops - 2, 0)
    return ((REGIONS, 5), (REGIONS,), *targets)[:tops]


@dataclass(frozen=True, slots=True)
class RoIData(TrainingSource):
    """Images, their sizes and their ground truth, or sampled regions."""

    top_names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    def top_shape(self, top: int) -> Shape:
        blob = self.top_names[top]
        if not top:
            raise unknown_size(blob, "a list of images", (1, 3, 0, 0))
        if 0 in self.shapes[top - 1]:
            known = self.shapes[top - 1]
            raise unknown_size(blob, "a list of images", known, "1,3 or 1,4")
        return self.shapes[top - 1]


@python_layer("roi_data_layer.layer", "RoIDataLayer")
def _images(params: Params) -> Layer:
    (classes, *_) = numbers(params, options(params, "num_classes"), "num_classes")
    blobs = top_names(params)
    regions = _regions(len(blobs) - 1, int(classes))
    # With one scale for each axis, there are four numbers instead of three.
    return RoIData(blobs, ((1, 0), (1, 5)) if "im_info" in blobs else regions)


@dataclass(frozen=True, slots=True)
class SpatialDropout(Elementwise, Stochastic):
    """x / (1 - p), with whole channels set to 0 in training.

    ENet's own code: its `param_str` has the phase, and it scales in TEST too.
    """

    p: float
    training: bool
    always: bool

    def build(self, at: Site) -> Call | None:
        if not self.training:
            return None
        spatial = sorted(at.input.layout.axes.index(a) for a in (2, 3))
        return Call.of("nnx.Dropout", self.p, broadcast_dims=tuple(spatial))

    def draws(self, phase: str) -> bool:
        return self.training

    @property
    def takes_rngs(self) -> bool:
        return self.training

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        if len(inputs[0]) != 4:
            raise ConversionError(f"needs a blob of 4 axes, not {inputs[0]}")
        return inputs

    def call(self, at: Site) -> str:
        if not self.training:
            return f"{literal(1 / (1 - self.p))} * {at.operands[0]}"
        deterministic = "False" if self.always else None
        given = arguments(at.x, deterministic=deterministic, rngs="rngs")
        return f"{at.module}({given})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        scaled: Array = inputs[0] / (1 - self.p)
        return inputs[0] if self.training else scaled


@python_layer("spatial_dropout", "SpatialDropoutLayer")
def _spatial_dropout(params: Params) -> Layer:
    given = options(params, "phase", "p")
    (p, *_) = numbers(params, given, "p")
    if p >= 1 and "p" in given:
        params.error("param_str", f"p must be below 1, not {p}")
    training = given.get("phase") == ("TRAIN",)
    return SpatialDropout(p, training, params.phase != "TRAIN")
