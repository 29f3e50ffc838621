"""A Caffe net as a few operations in Caffe's axis order, for the peers' formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import read_graph
from caffe2flax.frontend import caffemodel
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.layers.batchnorm import BatchNorm, statistics
from caffe2flax.layers.combine import Concat, Eltwise
from caffe2flax.layers.convolution import Convolution
from caffe2flax.layers.dense import InnerProduct
from caffe2flax.layers.lrn import LRN
from caffe2flax.layers.pooling import Pooling
from caffe2flax.passes.batchnorm import fold_batchnorm
from caffe2flax.passes.shapes import infer_shapes
from caffe2flax.passes.unused import drop_unused
from caffe2flax.weights.variables import collect

Array = NDArray[Any]
Settings = Mapping[str, Any]
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: conv, relu, max_pool, avg_pool, global_pool, lrn, gemm, concat,
    batch_norm, add or softmax.

    inputs and output are names of blobs. weights are those of the ONNX operation of
    that name.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    weights: tuple[Array, ...] = ()
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """Operations in order, from `input` to `output`, whose items have shapes."""

    ops: tuple[Op, ...]
    input: str
    output: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def lower(prototxt: Path, weights: Path) -> Program:
    """The operations of a net with one input and one output.

    Raises:
        NotImplementedError: a layer or a setting that none of the networks has.
    """
    graph = read_graph(prototxt, passes=(drop_unused, infer_shapes, fold_batchnorm))
    blobs, _ = collect(graph, [caffemodel.read(weights)])
    aliases: dict[Value, str] = {}
    ops = tuple(_ops(graph, blobs, aliases))
    (source,), (target,) = graph.arguments, graph.outputs
    return Program(
        ops,
        _name(source),
        aliases.get(target, _name(target)),
        graph.shapes[source],
        graph.shapes[target],
    )


def _name(value: Value) -> str:
    return f"{value.blob}.{value.version}"


def _ops(
    graph: Graph, blobs: Mapping[tuple[int, int], Array], aliases: dict[Value, str]
) -> Iterator[Op]:
    for node in graph.nodes:
        inputs = tuple(aliases.get(v, _name(v)) for v in node.inputs)
        (output,) = node.outputs
        if type(node.layer).__name__ in ("Dropout", "Split"):
            aliases[output] = inputs[0]
            continue
        own = [blobs[w.owner, w.index].reshape(w.shape) for w in node.weights]
        shapes = [graph.shapes[v] for v in node.inputs]
        kind, weights, settings = _operation(node, own, shapes, graph.shapes[output])
        yield Op(kind, inputs, _name(output), weights, settings)


Shape = tuple[int, ...]
Operation = tuple[str, tuple[Array, ...], Settings]


def _operation(
    node: Node, blobs: Sequence[Array], shapes: Sequence[Shape], output: Shape
) -> Operation:
    match node.layer:
        case Convolution(sliding=sliding, group=group):
            kernel = blobs[0].shape[2:]
            settings = {
                "kernel": kernel,
                "stride": _pair(sliding.stride, 1),
                "pad": _pair(sliding.pad, 0),
                "dilation": _pair(sliding.dilation, 1),
                "group": group,
            }
            return "conv", tuple(blobs), settings
        case InnerProduct(bias=True, first_axis=1, transpose=False):
            return "gemm", tuple(blobs), {"flat": prod(shapes[0][1:])}
        case Pooling(method="AVE", everywhere=True):
            return "global_pool", (), {}
        case Pooling(method=method, everywhere=False) as pool:
            return _pool(pool, method, shapes[0], output)
        case LRN(within=False, lossy=False) as lrn:
            settings = {"size": lrn.size, "alpha": lrn.alpha, "beta": lrn.beta}
            return "lrn", (), settings | {"k": lrn.k}
        case BatchNorm(moving=False, eps=eps, scale=scale):
            mean, variance = statistics(blobs)
            ones = np.ones_like(mean), np.zeros_like(mean)
            learned = blobs[3:] if scale else ones
            return "batch_norm", (*learned, mean, variance), {"eps": eps}
        case Concat(concat_axis=axis):
            return "concat", (), {"axis": axis}
        case Eltwise(operation="SUM", coeff=coeff) if set(coeff) == {1.0}:
            return "add", (), {}
    match type(node.layer).__name__:
        case "ReLU" if not getattr(node.layer, "negative_slope", 0):
            return "relu", (), {}
        case "Softmax":
            return "softmax", (), {}
    raise NotImplementedError(f"{node.name}: {node.layer}")


def _pool(pool: Pooling, method: str, shape: Shape, output: Shape) -> Operation:
    """`end` is what the last window reads beyond the image."""
    kernel, stride = _pair(pool.kernel, 1), _pair(pool.stride, 1)
    pad = _pair(pool.pad, 0)
    end = tuple(
        max(0, (out - 1) * s + k - size - p)
        for out, s, k, size, p in zip(
            output[2:], stride, kernel, shape[2:], pad, strict=True
        )
    )
    if method == "AVE" and any(pad):
        raise NotImplementedError("a mean that counts pixels of the pad")
    settings = {"kernel": kernel, "stride": stride, "pad": pad, "end": end}
    return ("avg_pool" if method == "AVE" else "max_pool"), (), settings


def _pair(values: Sequence[int], default: int) -> Pair:
    """Caffe's repeated fields: none, one for both axes, or one each."""
    first, *others = values or (default,)
    return first, (others or [first])[0]
