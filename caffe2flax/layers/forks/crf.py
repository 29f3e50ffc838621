"""The mean field of CRF-RNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import RNGS, Call
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layer import Array, Blob, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import layer
from caffe2flax.layers._forks import Frames, images, positive

NOT_ZERO = 1e-20
"""What the fork adds to the sums that it divides by."""


@layer("MultiStageMeanfield", "multi_stage_meanfield_param")
@dataclass(frozen=True, slots=True)
class MultiStageMeanfield(Frames):
    """Mean field of a dense CRF: Q = unary - M (W_s S(softmax(Q)) + W_b B(softmax(Q))),
    again and again; S and B are Gaussians of places and colours."""

    bottoms = 3

    iterations: int
    theta: tuple[float, float, float]
    """Widths: of places and of colours in B, of places in S."""

    @classmethod
    def parse(cls, params: Params) -> Self:
        # What a trained net has learned in place of them.
        params.ignore("compatibility_mode", "threshold", "spatial_filter_weight")
        params.ignore("bilateral_filter_weight", "spatial_filter_weights_str")
        params.ignore("bilateral_filter_weights_str")
        names = ("theta_alpha", "theta_beta", "theta_gamma")
        alpha, beta, gamma = (params.require(name, float) for name in names)
        for name, value in zip(names, (alpha, beta, gamma), strict=True):
            if not value > 0 and params.has(name):
                params.error(name, f"{name} must be positive, not {value}")
        return cls(positive(params, "num_iterations", 10), (alpha, beta, gamma))

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        unary, scores, image = (images(self.type, shape) for shape in inputs)
        if scores != unary or (image[0], *image[2:]) != (unary[0], *unary[2:]):
            raise ConversionError(f"{unary}, {scores} and {image} do not fit")
        return (unary,)

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        channels = inputs[0][1]
        return (Blob((1, 1, channels, channels), Filler()),) * 3

    def build(self, at: Site) -> Call:
        return Call.of(
            "MeanField",
            at.input.shape[1],
            iterations=self.iterations,
            theta=self.theta,
            rngs=RNGS,
        )

    def call(self, at: Site) -> str:
        return f"{at.module}({', '.join(at.args)})"

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        names = ("spatial", "bilateral", "compatibility")
        return {name: blob[0, 0].T for name, blob in zip(names, blobs, strict=True)}

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        kernels = [blob[0, 0] for blob in blobs]
        top = [self._one(kernels, *each) for each in zip(*inputs, strict=True)]
        return np.stack(top)

    def _one(
        self, kernels: Sequence[Array], unary: Array, scores: Array, image: Array
    ) -> Array:
        channels, height, width = unary.shape
        alpha, beta, gamma = map(np.float32, self.theta)
        rows, columns = np.indices((height, width), np.float32).reshape(2, -1)
        at = np.stack([columns, rows], 1)
        colours = image.reshape(len(image), -1).T.astype(np.float32)
        features = at / gamma, np.concatenate([at / alpha, colours / beta], 1)
        ones = np.ones((height * width, 1))
        filters = [_lattice(each) for each in features]
        norms = [f(ones) + NOT_ZERO for f in filters]
        spatial, bilateral, compatibility = kernels
        q = scores.reshape(channels, -1)
        for _ in range(self.iterations):
            p = np.exp(q - q.max(0))
            p = (p / p.sum(0)).T
            near, like = (f(p) / norm for f, norm in zip(filters, norms, strict=True))
            message = spatial @ near.T + bilateral @ like.T
            q = unary.reshape(channels, -1) - compatibility @ message
        return q.reshape(unary.shape)


def _lattice(features: Array) -> Callable[[Array], Array]:
    """The filter of values (P, C) by the features (P, d) of the points, on a
    permutohedral lattice; float32 where the fork decides in which simplex they lie."""
    points, d = features.shape
    size = d + 1
    steps = np.arange(d)
    scale = 1 / np.sqrt((steps + 1) * (steps + 2)) * np.float32(np.sqrt(2 / 3) * size)
    scaled = features * scale.astype(np.float32)
    place = np.zeros((points, size), np.float32)
    for i in range(d, 0, -1):
        place[:, i] = place[:, 0] - i * scaled[:, i - 1]
        place[:, 0] += scaled[:, i - 1]
    near = np.round(place * np.float32(1 / size)).astype(np.int64)
    rest = place - (near * size).astype(np.float32)
    rank = np.zeros((points, size), np.int64)
    for i in range(size):
        for j in range(i + 1, size):
            less = rest[:, i] < rest[:, j]
            rank[:, i] += less
            rank[:, j] += ~less
    rank += near.sum(1, keepdims=True)
    near = near + (rank < 0) - (rank > d)
    rank = rank + size * ((rank < 0).astype(int) - (rank > d))
    far = (place - (near * size).astype(np.float32)).astype(np.float64) / size
    shares = np.zeros((points, size + 1))
    index = np.arange(points)[:, None]
    np.add.at(shares, (index, d - rank), far)
    np.add.at(shares, (index, size - rank), -far)
    shares[:, 0] += 1 + shares[:, size]
    weights = shares[:, :size]
    corner = np.arange(size)[None, :, None]
    moved = np.where(rank[:, None] > d - corner, corner - size, corner)
    rows = (near[:, None] * size + moved)[:, :, :d].reshape(-1, d)
    vertices, vertex = np.unique(rows, axis=0, return_inverse=True)
    vertex = vertex.reshape(points, size)
    known = {tuple(row): number for number, row in enumerate(vertices.tolist())}
    beside = []
    for axis in range(size):
        step = np.where(np.arange(d) == axis, d, -1)
        beside.append(
            [
                np.array([known.get(tuple(row), -1) for row in moved.tolist()])
                for moved in (vertices + step, vertices - step)
            ]
        )

    def filtered(x: Array) -> Array:
        values = np.zeros((len(vertices) + 1, x.shape[1]))
        np.add.at(values, vertex, weights[:, :, None] * x[:, None])
        for one, other in beside:
            values[:-1] += (values[one] + values[other]) / 2
        top: Array = (weights[:, :, None] * values[vertex]).sum(1) / (1 + 2.0**-d)
        return top

    return filtered
