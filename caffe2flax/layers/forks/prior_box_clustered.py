"""The prior boxes of Intel's detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers.forks._priors import SizedPriors


@layer("PriorBoxClustered", "prior_box_param")
@dataclass(frozen=True, slots=True)
class PriorBoxClustered(SizedPriors):
    """Boxes of given widths and heights around each cell of a feature map.

    (1, 2, H * W * boxes * 4): corners as shares of the image, then their variances.
    """

    @classmethod
    def parse(cls, params: Params) -> Self:
        # Turned boxes are for ratios, which this layer lacks.
        params.ignore("flip")
        return cls.read(params, "width", "height")
