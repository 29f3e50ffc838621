"""Random small nets, compiled, beside plain ones."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import caffe2flax
from tests.cpu.common import distance, filled, numbers

Layer = Callable[[Array], Array]


class Sum(nnx.Module):
    """A convolution plus what came in, turned or not, ReLU or not."""

    def __init__(self, channels: int, kind: int):
        self.conv = nnx.Conv(channels, channels, (3, 3), rngs=nnx.Rngs(kind))
        self.kind = kind

    def __call__(self, x: Array) -> Array:
        y = self.conv(x)
        y = x + y if self.kind % 2 else y + x
        return nnx.relu(y) if self.kind // 2 % 2 else y


class Branches(nnx.Module):
    def __init__(self, channels: int, out: int, seed: int):
        rngs = nnx.Rngs(seed)
        self.left = nnx.Conv(channels, out, (1, 1), rngs=rngs)
        self.right = nnx.Conv(channels, out + seed % 2, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([nnx.relu(self.left(x)), self.right(x)], axis=-1)


def lrn(x: Array) -> Array:
    squares = jnp.pad(jnp.square(x), [(0, 0)] * 3 + [(1, 1)])
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(3))
    return x / (1 + 0.1 * near) ** 0.75


class Net(nnx.Module):
    """A random chain of layers. x is (N, H, W, C)."""

    def __init__(self, random: np.random.Generator, channels: int):
        layers: list[Layer] = []
        for _ in range(int(random.integers(2, 6))):
            layer, channels = self.draw(random, channels)
            layers.append(layer)
        self.layers = nnx.List(layers)
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(channels, 5, rngs=nnx.Rngs(1))

    def draw(self, random: np.random.Generator, channels: int) -> tuple[Layer, int]:
        seed, kind = (int(random.integers(n)) for n in (99, 9))
        rngs = nnx.Rngs(seed)
        match kind:
            case 0 | 1 | 2:
                out = int(random.integers(1, 40))
                window = tuple(map(int, random.integers(1, 5, 2)))
                stride = int(random.integers(1, 3))
                dilation = int(random.integers(1, 3)) if stride == 1 else 1
                bias = bool(random.integers(2))
                conv = nnx.Conv(
                    channels,
                    out,
                    window,
                    stride,
                    kernel_dilation=dilation,
                    use_bias=bias,
                    rngs=rngs,
                )
                return conv, out
            case 3:
                return nnx.BatchNorm(channels, rngs=rngs), channels
            case 4:
                return nnx.relu, channels
            case 5:
                pool = nnx.max_pool
                size, step = random.integers(1, 4, 2).tolist()
                return lambda x: pool(x, (size, 2), (step, 1), "SAME"), channels
            case 6:
                return Sum(channels, seed), channels
            case 7:
                out = int(random.integers(1, 9))
                return Branches(channels, out, seed), 2 * out + seed % 2
        groups = next(n for n in (2, 3, 4, channels) if channels % n == 0)
        conv = nnx.Conv(
            channels, 2 * channels, (3, 3), feature_group_count=groups, rngs=rngs
        )
        return (conv, 2 * channels) if seed % 2 else (lrn, channels)

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return nnx.softmax(self.fc(self.drop(x.mean((1, 2)))))


@pytest.mark.parametrize("seed", range(40))
def test_random_nets(seed: int, tier: str) -> None:
    random = np.random.default_rng(seed)
    *sizes, channels = map(int, random.integers([1, 5, 5, 1], [5, 20, 20, 40]))
    model = filled(lambda: Net(random, channels))
    x = numbers(*sizes, channels, seed=seed)
    forward = caffe2flax.compile(model, thorough=bool(seed % 2))
    assert distance(forward(x), jax.jit(model)(x)) <= 2e-5
