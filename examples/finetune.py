"""Fine-tuning: a network that Caffe trained on ten digits learns to tell odd from even.

    python examples/finetune.py

converts the network of `caffe2flax demo`, gives it a new last layer for two classes,
and trains that layer alone, in a few seconds on a CPU.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import caffe2flax

DIGITS = Path(__file__).parents[1] / "fixtures" / "digits"
LAST = nnx.All(nnx.Param, nnx.PathContains("ip2"))
"""The parameters to train: those of the last layer."""


def convert(folder: str) -> type:
    """The class of the converted network, its files in `folder`. With a module that you
    keep this is `from digitslenet import DigitsLeNet`."""
    net, weights = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
    path, _ = caffe2flax.convert(net, weights).write(folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DigitsLeNet


def load_images() -> tuple[jnp.ndarray, jnp.ndarray]:
    """360 images (N, H, W, C), 0 to 1, and for each whether its digit is odd."""
    with np.load(DIGITS / "digits_test.npz") as test:
        images = test["data"].transpose(0, 2, 3, 1).astype(np.float32) / 16
        return jnp.asarray(images), jnp.asarray(test["label"].astype(np.int32) % 2)


@nnx.jit
def step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    images: jnp.ndarray,
    odd: jnp.ndarray,
    rngs: nnx.Rngs,
) -> jnp.ndarray:
    """One step down the gradient of the last layer; the loss before it."""

    def loss(model: nnx.Module, rngs: nnx.Rngs) -> jnp.ndarray:
        scores = model.logits(images, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(scores, odd).mean()

    of_last = nnx.DiffState(0, LAST)
    value, gradients = nnx.value_and_grad(loss, argnums=of_last)(model, rngs)
    optimizer.update(model, gradients)
    return value


def main() -> float:
    """The share of right answers on images that were not trained on."""
    images, odd = load_images()
    with tempfile.TemporaryDirectory() as folder:
        model = convert(folder).from_pretrained(num_classes=2)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=LAST)
    rngs = nnx.Rngs(dropout=0)
    model.train()
    for number in range(100):
        loss = step(model, optimizer, images[:240], odd[:240], rngs)
        if number % 20 == 0:
            print(f"step {number:3}: loss {loss:.3f}")
    model.eval()
    right = float((model.logits(images[240:]).argmax(-1) == odd[240:]).mean())
    print(f"{right:.1%} of 120 other images right")
    return right


if __name__ == "__main__":
    sys.exit(main() < 0.9)
