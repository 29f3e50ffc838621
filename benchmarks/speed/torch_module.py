"""A program as a PyTorch module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speed.lowering import Op, Program


class TorchProgram(nn.Module):
    """images (N, C, H, W) -> the program's output; blobs go when nobody reads on."""

    def __init__(self, program: Program):
        super().__init__()
        self.program = program
        last = {name: i for i, op in enumerate(program.ops) for name in op.inputs}
        self.ending: list[list[str]] = [[] for _ in program.ops]
        for name, i in last.items():
            self.ending[i].append(name)
        self.weights: list[list[Tensor]] = [
            [torch.tensor(array) for array in op.weights] for op in program.ops
        ]

    def forward(self, images: Tensor) -> Tensor:
        blobs = {self.program.input: images}
        each = zip(self.program.ops, self.weights, self.ending, strict=True)
        for op, weights, ending in each:
            blobs[op.output] = apply(op, weights, [blobs[name] for name in op.inputs])
            for name in ending:
                del blobs[name]
        return blobs[self.program.output]


def apply(op: Op, weights: list[Tensor], inputs: list[Tensor]) -> Tensor:
    """One operation."""
    s, x = op.settings, inputs[0]
    match op.kind:
        case "conv":
            bias = weights[1] if len(weights) > 1 else None
            window = (s["stride"], s["pad"], s["dilation"], s["group"])
            return F.conv2d(x, weights[0], bias, *window)
        case "relu":
            return torch.relu(x)
        case "max_pool":
            return F.max_pool2d(x, s["kernel"], s["stride"], s["pad"], ceil_mode=True)
        case "avg_pool":
            return F.avg_pool2d(x, s["kernel"], s["stride"], ceil_mode=True)
        case "global_pool":
            return x.mean((2, 3), keepdim=True)
        case "lrn":
            return F.local_response_norm(x, s["size"], s["alpha"], s["beta"], s["k"])
        case "gemm":
            return F.linear(x.flatten(1), *weights)
        case "batch_norm":
            scale, bias, mean, variance = weights
            return F.batch_norm(x, mean, variance, scale, bias, eps=s["eps"])
        case "concat":
            return torch.cat(inputs, s["axis"])
        case "add":
            return sum(inputs[1:], x)
        case "softmax":
            return torch.softmax(x, 1)
    raise NotImplementedError(op.kind)
