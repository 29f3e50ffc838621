"""A step of training, ours and PyTorch's: softmax and cross entropy of the last scores,
momentum, batch statistics in BatchNorm, no dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speed import ours
from speed.lowering import Op, Program, lower
from speed.networks import WORK, Network, network
from speed.peers import THREADS

Array = NDArray[Any]
Step = Callable[[], Any]

RATE, MOMENTUM = 1e-4, 0.9


def trained(name: str) -> Network:
    """A network whose BatchNorm uses the batch."""
    net = network(name)
    text = net.prototxt.read_text()
    if "use_global_stats" not in text:
        return net
    path = WORK / f"{name}_train.prototxt"
    path.write_text(text.replace("use_global_stats: true", "use_global_stats: false"))
    return Network(name, path, net.weights)


def data(net: Network, batch: int) -> tuple[Array, Array]:
    """Images (N, C, H, W) and labels (N,), the same everywhere."""
    labels = np.random.default_rng(0).integers(0, 10, batch)
    return net.images(batch), labels.astype(np.int32)


def jax_step(net: Network, images: Array, labels: Array, form: str) -> Step:
    """By caffe2flax.compile ("compiled") or nnx.jit ("jitted"); returns the loss."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import caffe2flax

    options = {"dropout": 0.0} if "Dropout" in net.prototxt.read_text() else {}
    model = ours.written(net).from_pretrained(**options)
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, MOMENTUM), wrt=nnx.Param)

    def train_step(model: Any, optimizer: Any, images: Any, labels: Any) -> Any:
        def loss(model: Any) -> Any:
            scores = model.logits(images)
            each = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            return each.mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    wrap: Any = caffe2flax.compile if form == "compiled" else nnx.jit
    step = wrap(train_step, donate_argnums=(0, 1))
    given = jnp.asarray(images.transpose(0, 2, 3, 1)), jnp.asarray(labels)

    def run() -> float:
        value = step(model, optimizer, *given)
        jax.block_until_ready(nnx.state(model))
        return float(value)

    return run


def torch_step(net: Network, images: Array, labels: Array, form: str) -> Step:
    """PyTorch, eagerly, in its usual layout ("torch") or with channels last."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(THREADS)
    layout = torch.contiguous_format if form == "torch" else torch.channels_last
    stored = network(net.name)  # the layers are the same
    program = without_softmax(lower(stored.prototxt, stored.weights))
    module = TorchSteps(program, layout)
    optimizer = torch.optim.SGD(module.parameters(), RATE, MOMENTUM)
    given = torch.from_numpy(images).contiguous(memory_format=layout)
    targets = torch.from_numpy(labels).long()

    def run() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(given), targets)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def without_softmax(program: Program) -> Program:
    """The program up to what enters its last Softmax."""
    *ops, end = program.ops
    if end.kind != "softmax":
        raise NotImplementedError(f"the last operation is {end.kind}")
    shape = program.output_shape
    return Program(tuple(ops), program.input, end.inputs[0], program.input_shape, shape)


def TorchSteps(program: Program, layout: Any) -> Any:
    """The program as a module with parameters."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from speed.torch_module import apply

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weights = {}
            self.averages: dict[int, list[Any]] = {}
            for i, op in enumerate(program.ops):
                tensors = [torch.tensor(array) for array in op.weights]
                tensors = [
                    t.contiguous(memory_format=layout) if t.ndim == 4 else t
                    for t in tensors
                ]
                if op.kind == "batch_norm":
                    self.averages[i] = tensors[2:]
                    tensors = tensors[:2]
                weights[str(i)] = nn.ParameterList(tensors)
            self.weights = nn.ModuleDict(weights)

        def forward(self, images: Any) -> Any:
            blobs = {program.input: images}
            for i, op in enumerate(program.ops):
                weights = list(self.weights[str(i)])
                inputs = [blobs[name] for name in op.inputs]
                blobs[op.output] = self.one(i, op, weights, inputs)
            return blobs[program.output]

        def one(self, i: int, op: Op, weights: list[Any], inputs: list[Any]) -> Any:
            if op.kind != "batch_norm":
                return apply(op, weights, inputs)
            options = {"training": True, "momentum": 1e-3, "eps": op.settings["eps"]}
            mean, variance = self.averages[i]
            return F.batch_norm(inputs[0], mean, variance, *weights, **options)

    return Module()
