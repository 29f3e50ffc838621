"""The form of a net that is only run: `convert --optimize`.

What it gives up: layers that Caffe names are gone where a convolution does their work,
weights are no longer Caffe's, so that there is nothing to fine-tune or to share, and
every Winograd convolution takes about a second to compile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir import Graph, Node
from caffe2flax.layers.convolution import Convolution
from caffe2flax.layout import Shape
from caffe2flax.passes.batchnorm import join
from caffe2flax.registry import (
    Array,
    Blob,
    Layer,
    Site,
    arguments,
    unless,
)

POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}
"""Where `ops.winograd` takes the values of polynomials, by the size of a tile."""
LARGE = 20
"""Pixels along an axis from which on tiles of 6 waste little."""
FEW_CHANNELS, FEW_PIXELS = 32, 6
"""Below these the transforms cost more than the products that they save."""


@dataclass(frozen=True, slots=True)
class PreparedConvolution(Convolution):
    """A convolution, then a factor and an offset for each channel; Winograd's with
    tiles of `tile` pixels, if that is not 0."""

    behind: Layer | None = None
    tile: int = 0

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        own = super(PreparedConvolution, self).blobs(*inputs)
        behind = self.behind
        return own + (behind.blobs(*self.infer(*inputs)) if behind else ())

    def names(self) -> tuple[str, ...]:
        return ()

    def build(self, at: Site) -> str:
        if not self.tile:
            return Convolution.build(self._emitted, at)
        assert self.padding is not None, "reconcile_padding has not run"
        pads = self.padding.emitted
        kernel = self.blobs(at.input.shape)[0].shape
        return "WinogradConv({})".format(
            arguments(
                kernel[1] * self.group,
                self.num_output,
                kernel[-1],
                tile=self.tile,
                padding=unless(pads, "SAME"),
                feature_group_count=unless(self.group, 1),
                dtype="dtype",
                rngs="rngs",
            )
        )

    @property
    def _emitted(self) -> Convolution:
        """With the bias that the module has."""
        return replace(self, bias=self.bias or self.behind is not None)

    def weights(self, blobs: Sequence[Array], at: Site) -> dict[str, Array]:
        kernel, bias = blobs[0], blobs[1] if self.bias else None
        if self.behind is not None:
            assert self.behind.affine is not None
            with np.errstate(invalid="ignore", divide="ignore"):
                scale, shift = self.behind.affine(blobs[1 + self.bias :])
            if not np.isfinite(scale).all():
                raise ConversionError(
                    f"the factors of a {self.behind.type} are not finite: convert "
                    "without optimize"
                )
            wide = kernel.astype(np.float64)
            kernel = wide * scale.reshape(-1, *(1,) * (kernel.ndim - 1))
            bias = shift if bias is None else bias * scale + shift
        if bias is None and self.tile:
            bias = np.zeros(self.num_output)
        given = (kernel,) if bias is None else (kernel, bias)
        made = Convolution.weights(
            replace(self._emitted, bias=len(given) > 1), given, at
        )
        if self.tile:
            made["kernel"] = transformed(made["kernel"], self.tile)
        return {k: v.astype(np.float32, copy=False) for k, v in made.items()}

    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        count = 1 + self.bias
        top = Convolution.reference(self, blobs[:count], *inputs)
        if self.behind is None:
            return top
        return self.behind.reference(
            blobs[count:], *([top] if len(inputs) == 1 else top)
        )


def prepare(graph: Graph) -> Graph:
    """Puts what multiplies and shifts the channels of a convolution into it, and
    prepares kernels for Winograd's algorithm where that pays.

    Before: a = Convolution(x); b = BatchNorm(a), with a Scale folded in
    After:  b = Convolution(x), with other weights
    """
    graph = join(graph, absorbed, tied=False)
    uses = Counter(weight for node in graph.nodes for weight in node.weights)
    nodes = tuple(
        replace(node, layer=_tiled(node, graph))
        if all(uses[weight] == 1 for weight in node.weights)
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes, remarks=tuple(_remarks(nodes)))


def _remarks(nodes: Sequence[Node]) -> Iterator[str]:
    """What the form gave up."""
    prepared = [n.layer for n in nodes if isinstance(n.layer, PreparedConvolution)]
    if not prepared:
        return
    folded = sum(len(n.layers) - 1 for n in nodes if n.layer in prepared)
    tiled = sum(layer.tile > 0 for layer in prepared)
    yield (
        "For inference alone, within 2e-5 of what convert writes without --optimize: "
        f"layers that are in the convolutions before them: {folded}; kernels in the "
        f"form of Winograd's algorithm: {tiled}, each up to a second more to compile. "
        "Their weights are no longer Caffe's, and not for fine-tuning."
    )


def absorbed(layer: Layer, following: Layer) -> Layer | None:
    """One convolution for two layers, if the second is affine in each channel."""
    if not isinstance(layer, Convolution) or following.affine is None:
        return None
    if layer.sliding.axis != 1:
        return None
    return _prepared(layer, behind=following)


def _prepared(layer: Convolution, **more: object) -> PreparedConvolution:
    held = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return PreparedConvolution(**(held | more))


def _tiled(node: Node, graph: Graph) -> Layer:
    layer = node.layer
    if not isinstance(layer, Convolution) or len(node.inputs) != 1:
        return layer
    shape, output = graph.shapes[node.inputs[0]], graph.shapes[node.outputs[0]]
    windows = layer.sliding.windows(shape)
    usual = len(shape) == 4 and layer.sliding.channel_axis(shape) == 1
    if not usual or any((w.kernel, w.stride, w.dilation) != (3, 1, 1) for w in windows):
        return layer
    channels = min(shape[1], layer.num_output) // layer.group
    if channels < FEW_CHANNELS or min(output[2:]) < FEW_PIXELS or layer.group > 8:
        return layer
    return _prepared(layer, tile=6 if min(output[2:]) >= LARGE else 4)


def transformed(kernel: Array, tile: int) -> Array:
    """G w G^T of w (h, h, C, out): (tile, tile, C, out)."""
    window = len(kernel)
    finite = np.vander(np.array(POINTS[tile]), window, increasing=True)
    values = np.vstack([finite, np.eye(1, window, window - 1)])
    rows = np.tensordot(values, kernel.astype(np.float64), (1, 0))
    made: Array = np.ascontiguousarray(
        np.tensordot(values, rows, (1, 1)).swapaxes(0, 1)
    )
    return made
