"""What a published folder says of its model, for programs: `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Probabilities
from caffe2flax.ir.graph import Graph
from caffe2flax.passes.transform import image_input
from caffe2flax.prediction.images import Recipe
from caffe2flax.prediction.preparation import recipe

BYTE = 255
"""timm counts pixels from 0 to 1, Caffe from 0 to 255."""


def takes_images(graph: Graph) -> bool:
    try:
        image_input(graph)
    except ConversionError:
        return False
    return True


def class_count(graph: Graph) -> int:
    """The number of classes of a classifier; 0 for another net."""
    made = {value: node.layer for node in graph.nodes for value in node.outputs}
    for value in graph.outputs:
        layer, shape = made.get(value), graph.shapes[value]
        if isinstance(layer, Probabilities) and layer.of_classes and len(shape) > 1:
            flat = all(extent == 1 for extent in shape[2:])
            return shape[1] if flat else 0
    return 0


def configuration(
    graph: Graph,
    name: str,
    stem: str,
    labels: Sequence[str],
    **images: Any,
) -> tuple[dict[str, object], tuple[str, ...]]:
    """The content of config.json, and notes. images: how they are prepared, as for
    `recipe`. Raises ConversionError."""
    classes = class_count(graph)
    if labels and len(labels) != classes:
        raise ConversionError(f"{len(labels)} labels for {classes} classes")
    made: dict[str, object] = {
        "architecture": name,
        "module": f"{stem}.py",
        "weights": f"{stem}.safetensors",
        "num_classes": classes,
        "inputs": [
            {
                "name": value.blob,
                "shape": [*graph.layouts[value].arrange(graph.shapes[value])],
                "caffe_axes": [*graph.layouts[value].axes],
            }
            for value in graph.arguments
        ],
        "outputs": [value.blob for value in graph.outputs],
    }
    if labels:
        made["label_names"] = list(labels)
    if not takes_images(graph):
        return made, ("the net takes no images: the folder prepares none",)
    steps, notes = recipe(graph, **images)
    return made | _prepared(steps, classes), notes


def _prepared(steps: Recipe, classes: int) -> dict[str, object]:
    """How images are prepared, in Caffe's numbers and in those of timm."""
    mean = [0.0] * steps.channels
    if steps.mean is not None:
        mean = [float(value) for value in steps.mean.reshape(-1, steps.channels)[0]]
    height, width = steps.size
    order = "RGB" if steps.rgb else "BGR"
    return {
        "preprocess": {
            "resize": list(steps.before),
            "interpolation": "bilinear",
            "crop": [height, width],
            "channel_order": order if steps.channels == 3 else "gray",
            "mean": mean,
            "scale": steps.scale,
        },
        "pretrained_cfg": {
            "input_size": [steps.channels, height, width],
            "interpolation": "bilinear",
            "crop_pct": round(height / steps.before[0], 6),
            "crop_mode": "squash",
            "mean": [value / BYTE for value in mean],
            "std": [1 / (BYTE * steps.scale)] * steps.channels,
            "num_classes": classes,
        },
    }
