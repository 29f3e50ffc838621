"""The graph run layer by layer in numpy float64: what Caffe computes, told a second
way.

Independent of the generated code: each layer's `reference` is written from Caffe's
definition, and nothing here knows of layouts or of XLA.
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

    `blobs` are the weights by (owner's number, index); `inputs` go by blob name.
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
    """What one node makes of `values`."""
    weights = [blobs[w.owner, w.index].reshape(w.shape) for w in node.weights]
    if not isinstance(node.layer, ReadsWeights):
        weights = [np.asarray(loaded(blob), np.float64) for blob in weights]
    made = node.layer.reference(weights, *(values[v] for v in node.inputs))
    outputs = made if isinstance(made, tuple) else (made,)
    return dict(zip(node.outputs, outputs, strict=True))
