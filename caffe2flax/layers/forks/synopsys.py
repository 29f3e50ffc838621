"""Layers of Synopsys' fork."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import arguments, literal, unless
from caffe2flax.ir.layer import Array, Layer, Layouts, Site
from caffe2flax.ir.layout import Layout, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import variant
from caffe2flax.layers._forks import four_axes
from caffe2flax.layers._python import python_layer
from caffe2flax.layers.forks._detections import Detections


@dataclass(frozen=True, slots=True)
class TensorShape(Layer):
    """The extents of the bottom, as numbers."""

    in_place = False

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return ((len(inputs[0]),),)

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((inputs[0].layout,), (Layout.caffe(1),))

    def call(self, at: Site) -> str:
        x, rank = at.operands[0], len(at.input.shape)
        places = [at.input.layout.axes.index(axis) for axis in range(rank)]
        if places == list(range(rank)):
            return f"jnp.array({x}.shape, jnp.float32)"
        extents = ", ".join(f"{x}.shape[{place}]" for place in places)
        return f"jnp.array([{extents}], jnp.float32)"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        return np.array(inputs[0].shape, np.float64)


@python_layer("shape", "TensorShape")
def _tensor_shape(params: Params) -> Layer:
    params.ignore("param_str")
    return TensorShape()


RATIOS = (3, 6, 6, 6, 6, 6)
"""How many boxes a cell of each piece has, where the file does not say."""
FLAGS = ("tflite_detection", "arm_conf_no_concat", "arm_loc_no_concat")


@variant("DetectionOutput", lambda params: params.bottoms >= params.get("nbottom", 6))
@dataclass(frozen=True, slots=True)
class PiecewiseOutput(Detections):
    """Rows (image, class, score, x1, y1, x2, y2) of the boxes that pass suppression;
    scores and locations come in pieces, one for each map."""

    bottoms = (3, None)

    pieces: int = 6
    order: str = "cells"
    ratios: tuple[int, ...] = RATIOS

    @classmethod
    def parse(cls, params: Params) -> Self:
        parsed = super(PiecewiseOutput, cls).parse(params)
        pieces = params.get("nbottom", 6)
        order = "cells"
        if params.get("no_permute", False):
            order = "boxes"
        if params.get("ratio_permute", False):
            order = "coordinates"
        ratios = tuple(params.get(f"ratio{i}", n) for i, n in enumerate(RATIOS))
        if order == "coordinates" and (pieces > len(ratios) or min(ratios) < 1):
            params.error("ratio_permute", "there are positive ratios for six pieces")
        for name in FLAGS:
            if params.get(name, False):
                params.unsupported(name, f"{name} is not supported")
        if pieces > 1 and params.bottoms == 3 * pieces:
            text = "the fork itself aborts: concatenate the priors on axis 2"
            params.error(None, text)
        elif params.bottoms != 2 * pieces + 1:
            wanted = f"{pieces} scores, {pieces} locations and the priors"
            params.error(None, f"needs {wanted}, not {params.bottoms} bottoms")
        if not parsed.share_location:
            params.unsupported("share_location", "pieces go with share_location true")
        return replace(
            parsed, objectness=None, pieces=pieces, order=order, ratios=ratios
        )

    def _boxes(self, *inputs: Shape) -> tuple[int, ...]:
        """How many boxes a cell has in each piece. Raises ConversionError."""
        scores, locations = inputs[: self.pieces], inputs[self.pieces : -1]
        boxes = []
        for i, pair in enumerate(zip(scores, locations, strict=True)):
            score, location = map(four_axes, pair)
            count = prod(location[1:]) // 4
            each = {"cells": 1, "coordinates": self.ratios[i % len(self.ratios)]}.get(
                self.order, location[1] // 4
            )
            wanted = (1, self.num_classes * count, 1, 1)
            if self.order == "boxes":
                cells = prod(location[2:])
                wanted = (1, self.num_classes, each, cells)
            if score != wanted or prod(location) != 4 * count or not each:
                raise ConversionError(
                    f"locations {pair[1]} and {self.num_classes} classes need scores "
                    f"{wanted}, of one image, not {pair[0]}"
                )
            if count % each:
                raise ConversionError(f"{count} boxes are no multiple of {each}")
            boxes.append(each)
        return tuple(boxes)

    def _count(self, *inputs: Shape) -> int:
        return sum(prod(shape) for shape in inputs[self.pieces : -1]) // 4

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        self._boxes(*inputs)
        count = self._count(*inputs)
        if four_axes(inputs[-1]) != (1, 2, 4 * count, 1):
            raise ConversionError(
                f"{count} locations need prior boxes (1, 2, {4 * count}), not "
                f"{inputs[-1]}"
            )
        return ((1, 1, self.rows(count), 7),)

    def call(self, at: Site) -> str:
        shapes = [x.shape for x in at.inputs]
        given = arguments(
            *at.args,
            classes=self.num_classes,
            boxes=literal(self._boxes(*shapes)),
            order=unless(self.order, "cells"),
        )
        return self.written(
            "detection_output",
            f"*joined_pieces({given})",
            code_type=unless(self.code, "CORNER"),
            variance_encoded_in_target=unless(self.encoded, False),
        )

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        boxes = self._boxes(*(x.shape for x in inputs))
        scores, locations = inputs[: self.pieces], inputs[self.pieces : -1]
        place, rows = 0, []
        for score, location, each in zip(scores, locations, boxes, strict=True):
            cells = location.size // (4 * each)
            for box in range(each) if self.order != "cells" else range(1):
                for cell in range(cells):
                    if self.order == "cells":
                        own, moves = cell, location.reshape(-1, 4)[cell]
                        chances = score.reshape(-1, self.num_classes)[cell]
                    else:
                        own = cell * each + box
                        split = location.reshape(each, 4, cells)[box, :, cell]
                        if self.order == "coordinates":
                            split = location.reshape(4, each, cells)[:, box, cell]
                        moves = split
                        chances = score.reshape(-1, each, cells)[:, box, cell]
                    rows.append((place + own, moves, chances))
            place += cells * each
        order = [place for place, _, _ in rows]
        priors = inputs[-1].reshape(1, 2, -1, 4)[:, :, order].reshape(1, 2, -1)
        loc = np.concatenate([moves for _, moves, _ in rows])[None]
        conf = np.concatenate([chances for _, _, chances in rows])[None]
        return Detections.reference(self, blobs, loc, conf, priors)
