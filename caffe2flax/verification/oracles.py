"""What a generated module is compared with: our numpy reference, Caffe, or OpenCV."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.frontend.sniff import is_binary
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.verification.reference import evaluate_node
from caffe2flax.weights.safetensors import Progress

Array = NDArray[Any]
Blobs = Mapping[tuple[int, int], Array]


@dataclass(frozen=True, slots=True)
class Task:
    """A net to run: its graph and weights, its inputs, and the files of the net. `net`
    is a path or the text of a prototxt."""

    graph: Graph
    blobs: Blobs
    inputs: Mapping[str, Array]
    net: str
    weights: Sequence[str] = ()
    level: int = 0
    stages: Sequence[str] = ()
    progress: Progress | None = None


Oracle = Callable[[Task], dict[Value, Array]]


def reference(task: Task) -> dict[Value, Array]:
    """Every blob, by the reference in numpy float64, layer by layer."""
    values: dict[Value, Array] = {
        value: np.asarray(task.inputs[value.blob], np.float64)
        for value in task.graph.arguments
    }
    for done, node in enumerate(task.graph.nodes, 1):
        for layer in node.layers:
            values.update(evaluate_node(layer, task.blobs, values))
        if task.progress is not None:
            task.progress(done, len(task.graph.nodes))
    return values


def caffe(task: Task) -> dict[Value, Array]:
    """Every blob by an installed pycaffe; of a blob that layers change in place, its
    last version. Raises ConversionError where there is no pycaffe."""
    pycaffe = _module("caffe", "pycaffe is not installed: Python finds no module caffe")
    if not task.weights and any(node.weights for node in task.graph.nodes):
        text = "Caffe would draw weights of its own: give a weights file"
        raise ConversionError(text)
    phase = pycaffe.TRAIN if task.graph.phase == "TRAIN" else pycaffe.TEST
    options: dict[str, object] = {}
    if task.level or task.stages:
        options = {"level": task.level, "stages": list(task.stages)}
    with tempfile.TemporaryDirectory() as folder:
        net = pycaffe.Net(_file(task.net, Path(folder)), phase, **options)
    for path in task.weights:
        net.copy_from(path)
    for name, array in task.inputs.items():
        net.blobs[name].reshape(*array.shape)
    net.reshape()
    for name, array in task.inputs.items():
        net.blobs[name].data[...] = array
    net.forward()
    return {
        value: np.array(net.blobs[name].data, np.float64)
        for name, value in task.graph.blobs.items()
        if name in net.blobs
    }


OLDEST_WITHOUT_CAFFE = 5
"""The first version of OpenCV that cannot read Caffe files."""


def opencv(task: Task) -> dict[Value, Array]:
    """The first top of every layer that OpenCV supports. Raises ConversionError where
    there is no OpenCV below 5, or where it cannot read the net."""
    cv2 = _module("cv2", "OpenCV is not installed: pip install 'opencv-python<5'")
    version = str(cv2.__version__)
    if int(version.partition(".")[0]) >= OLDEST_WITHOUT_CAFFE:
        text = f"OpenCV {version} reads no Caffe files; 'opencv-python<5' does"
        raise ConversionError(text)
    if len(task.weights) != 1:
        text = f"OpenCV takes one weights file, not {len(task.weights)}"
        raise ConversionError(text)
    layers = {
        layer.name: layer.outputs[0]
        for node in task.graph.nodes
        for layer in node.layers
        if layer.outputs and layer.number >= 0
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            net = cv2.dnn.readNetFromCaffe(
                _file(task.net, Path(folder)), task.weights[0]
            )
        net.enableFusion(False)
        for name, array in task.inputs.items():
            net.setInput(np.asarray(array, np.float32), name)
        names = [name for name in net.getLayerNames() if name in layers]
        tops = net.forward(names)
    except cv2.error as error:
        raise ConversionError(f"OpenCV refuses the net: {error}") from None
    return {
        layers[name]: np.asarray(top, np.float64).reshape(_shape(task, layers[name]))
        for name, top in zip(names, tops, strict=True)
    }


ORACLES: Mapping[str, Oracle] = {
    "reference": reference,
    "caffe": caffe,
    "opencv": opencv,
}


def _module(name: str, otherwise: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        text = otherwise if missing else f"{name} cannot be imported: {error}"
        raise ConversionError(text) from None


def _file(net: str, folder: Path) -> str:
    """The path of a prototxt, written to `folder` if it is a text. Raises
    ConversionError for a net in a binary file."""
    if "{" not in net and "\n" not in net:
        if is_binary(net):
            text = "to run elsewhere, the net is needed as a prototxt"
            raise ConversionError(Problem(text, Span(net)))
        return net
    path = folder / "net.prototxt"
    path.write_text(net, encoding="utf-8")
    return str(path)


def _shape(task: Task, value: Value) -> tuple[int, ...]:
    """Caffe's shape of a value, with any batch: OpenCV leaves out axes of extent 1."""
    shape = task.graph.shapes[value]
    return (-1, *shape[1:]) if shape else ()
