"""The graph run layer by layer in numpy float64: a second implementation of what Caffe
computes.

It is independent of the generated code: each layer's `reference` follows Caffe's
definition, without layouts or XLA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.files.mapped import loaded
from caffe2flax.ir.abilities import ReadsWeights
from caffe2flax.ir.graph import Graph, Node, Value

Array = NDArray[Any]


def evaluate(
    graph: Graph,
    blobs: Mapping[tuple[int, int], Array],
    inputs: Mapping[str, Array],
) -> dict[Value, Array]:
    """Every value of the graph, float64, in Caffe's axis order.

    `blobs` are the weights by (owner's number, index), `inputs` arrays by blob name.
    """
    values: dict[Value, Array] = {
        value: np.asarray(inputs[value.blob], np.float64) for value in graph.arguments
    }
    for node in graph.nodes:
        values.update(evaluate_node(node, blobs, values))
    return values


def evaluate_node(
    node: Node, blobs: Mapping[tuple[int, int], Array], values: Mapping[Value, Array]
) -> dict[Value, Array]:
    """The outputs of one node on `values`."""
    weights = [blobs[w.owner, w.index].reshape(w.shape) for w in node.weights]
    if not isinstance(node.layer, ReadsWeights):
        weights = [np.asarray(loaded(blob), np.float64) for blob in weights]
    tops = node.layer.reference(weights, *(values[v] for v in node.inputs))
    outputs = tops if isinstance(tops, tuple) else (tops,)
    return dict(zip(node.outputs, outputs, strict=True))
