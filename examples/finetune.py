"""Fine-tuning: a network that Caffe trained on ten digits learns to tell odd from even.

    python examples/finetune.py

converts the network of `caffe2flax demo`, gives it a new last layer for two classes,
trains that layer alone, as its first gradients would spoil the others, and then all of
them at a lower rate, in a few seconds on a CPU.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import caffe2flax

DIGITS = Path(__file__).parents[1] / "fixtures" / "digits"
LAST = nnx.All(nnx.Param, nnx.PathContains("ip2"))
"""The parameters of the last layer."""
STAGES = ((LAST, 1e-2, 60), (nnx.Param, 1e-3, 20))
"""Which parameters are trained, at what rate, in how many steps."""


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


@partial(nnx.jit, static_argnames="trained")
def step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    images: jnp.ndarray,
    odd: jnp.ndarray,
    rngs: nnx.Rngs,
    trained: nnx.filterlib.Filter,
) -> jnp.ndarray:
    """One step down the gradient of the parameters `trained`; the loss before it."""

    def loss(model: nnx.Module, rngs: nnx.Rngs) -> jnp.ndarray:
        scores = model.logits(images, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(scores, odd).mean()

    argument = nnx.DiffState(0, trained)
    value, gradients = nnx.value_and_grad(loss, argnums=argument)(model, rngs)
    optimizer.update(model, gradients)
    return value


def main() -> float:
    """The share of right answers on images that were not trained on."""
    images, odd = load_images()
    with tempfile.TemporaryDirectory() as folder:
        model = convert(folder).from_pretrained(num_classes=2)
    rngs = nnx.Rngs(dropout=0)  # what Dropout draws from, given at each call
    for trained, rate, steps in STAGES:
        optimizer = nnx.Optimizer(model, optax.adam(rate), wrt=trained)
        model.train()
        for number in range(steps):
            loss = step(model, optimizer, images[:240], odd[:240], rngs, trained)
            if number % 10 == 0:
                print(f"step {number:3}: loss {loss:.3f}")
        model.eval()
        right = float((model.logits(images[240:]).argmax(-1) == odd[240:]).mean())
        print(f"{right:.1%} of 120 other images right")
    return right


if __name__ == "__main__":
    sys.exit(main() < 0.9)
