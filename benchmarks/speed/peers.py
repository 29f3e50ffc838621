"""The runtimes that people leave, each as a function of images (N, C, H, W).

Each is set up as its documentation says for two threads and float32, and is given the
shape of the input beforehand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from speed.lowering import Op, Program
from speed.networks import Network

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
Build = Callable[[Network, Program, int], Run]

THREADS = 2
OPSET = 17


def opencv(network: Network, program: Program, batch: int) -> Run:
    """OpenCV's own reader of Caffe's files."""
    import cv2

    cv2.setNumThreads(THREADS)
    net = cv2.dnn.readNetFromCaffe(str(network.prototxt), str(network.weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)

    def run(images: Array) -> Array:
        net.setInput(images)
        return np.asarray(net.forward())

    return run


def onnxruntime(network: Network, program: Program, batch: int) -> Run:
    """ONNX Runtime, all its optimisations on."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(
        onnx_bytes(program, batch), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: np.asarray(session.run(None, {program.input: images})[0])


def openvino(network: Network, program: Program, batch: int) -> Run:
    """OpenVINO in float32, for low latency."""
    sys.modules.setdefault("openvino_telemetry", None)  # it forks, to send home
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.compile_model(
        core.read_model(onnx_bytes(program, batch)), "CPU", settings
    )
    return lambda images: np.array(model([images])[0])


def pytorch(network: Network, program: Program, batch: int) -> Run:
    """PyTorch, eagerly, in inference mode."""
    import torch

    torch.set_num_threads(THREADS)
    from speed.torch_module import TorchProgram

    module = TorchProgram(program).eval()

    def run(images: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return run


BUILD: dict[str, Build] = {
    "opencv-python-headless": opencv,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": pytorch,
}
"""How each is set up, by its package."""


def onnx_bytes(program: Program, batch: int) -> bytes:
    """The program as an ONNX model for inputs of `batch` images."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors = [], []
    for op in program.ops:
        names = [f"{op.output}:{i}" for i in range(len(op.weights))]
        for name, array in zip(names, op.weights, strict=True):
            tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        inputs = [*op.inputs]
        if op.kind == "gemm":
            flat = f"{op.output}:flat"
            nodes.append(helper.make_node("Flatten", inputs, [flat], axis=1))
            inputs = [flat]
        type_, attributes = _onnx(op)
        nodes.append(
            helper.make_node(type_, [*inputs, *names], [op.output], **attributes)
        )

    def described(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name, TensorProto.FLOAT, (batch, *shape[1:])
        )

    graph = helper.make_graph(
        nodes,
        "net",
        [described(program.input, program.input_shape)],
        [described(program.output, program.output_shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _onnx(op: Op) -> tuple[str, dict[str, object]]:
    """ONNX's operation and its attributes."""
    s = op.settings
    match op.kind:
        case "conv":
            return "Conv", {
                "kernel_shape": s["kernel"],
                "strides": s["stride"],
                "pads": (*s["pad"], *s["pad"]),
                "dilations": s["dilation"],
                "group": s["group"],
            }
        case "max_pool" | "avg_pool":
            window = {
                "kernel_shape": s["kernel"],
                "strides": s["stride"],
                "pads": (*s["pad"], *s["end"]),
            }
            return ("MaxPool" if op.kind == "max_pool" else "AveragePool"), window
        case "lrn":
            size, alpha, beta = s["size"], s["alpha"], s["beta"]
            return "LRN", {"size": size, "alpha": alpha, "beta": beta, "bias": s["k"]}
        case "batch_norm":
            return "BatchNormalization", {"epsilon": s["eps"]}
        case "gemm":
            return "Gemm", {"transB": 1}
        case "concat":
            return "Concat", {"axis": s["axis"]}
        case "softmax":
            return "Softmax", {"axis": 1}
    return {"relu": "Relu", "add": "Sum", "global_pool": "GlobalAveragePool"}[
        op.kind
    ], {}
