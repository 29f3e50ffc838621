"""Neural style: the shapes of one image in the colours and textures of another.

    python examples/style.py [style.png]

A net of Caffe gives features; the image itself is what is optimised, until its features
are those of the content, and the correlations of its features those of the style. The
net here is the beginning of VGG with few channels and random weights, and the images
are made up, so that it takes seconds. With `VGG_ILSVRC_16_layers_deploy.prototxt` and
its caffemodel in place of NET, and photographs, it is the method as it was published.
"""

from __future__ import annotations

import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import caffe2flax

STYLE = ("conv1_1", "conv2_1", "conv3_1")
CONTENT = "conv3_1"
STYLE_WEIGHT = 1e2
STEPS, RATE = 120, 0.03
SIDE = 48


def conv(name: str, bottom: str, outputs: int) -> str:
    """A convolution as in VGG, with its ReLU."""
    return f"""
    layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
      convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1
        weight_filler {{ type: "msra" }} }} }}
    layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}"""


def pool(name: str, bottom: str) -> str:
    return f"""
    layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}"
      pooling_param {{ pool: AVE kernel_size: 2 stride: 2 }} }}"""


NET = (
    f"""
    name: "SmallVGG"
    layer {{ name: "data" type: "Input" top: "data"
      input_param {{ shape {{ dim: 1 dim: 3 dim: {SIDE} dim: {SIDE} }} }} }}"""
    + conv("conv1_1", "data", 16)
    + pool("pool1", "conv1_1")
    + conv("conv2_1", "pool1", 24)
    + pool("pool2", "conv2_1")
    + conv("conv3_1", "pool2", 32)
)


def make_images() -> tuple[Array, Array]:
    """A disc to draw, and stripes to draw it in: (1, H, W, C), about -1 to 1."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    disc = np.where(np.hypot(x, y) < 0.3, 0.8, -0.8)[..., None] * np.ones(3)
    wave = np.sin(40 * (x + y))[..., None]
    stripes = wave * np.array([1.0, 0.3, -0.6]) + np.array([0.2, 0.0, -0.2])
    content, style = (jnp.asarray(x[None], jnp.float32) for x in (disc, stripes))
    return content, style


def gram(features: Array) -> Array:
    """The correlations of the channels of (1, H, W, C): (C, C)."""
    rows = features.reshape(-1, features.shape[-1])
    return rows.T @ rows / len(rows)


def main() -> float:
    """The loss of the last image in parts of that of the content itself."""
    content, style = make_images()
    model = caffe2flax.load(NET, taps=STYLE)
    _, wanted = model(style)
    grams = {blob: gram(wanted[blob]) for blob in STYLE}
    shapes = model(content)[1][CONTENT]

    def loss(image: Array, model: nnx.Module) -> Array:
        _, found = model(image)
        style = sum(jnp.square(gram(found[b]) - grams[b]).mean() for b in STYLE)
        return jnp.square(found[CONTENT] - shapes).mean() + STYLE_WEIGHT * style

    optimizer = optax.adam(RATE)

    @nnx.jit
    def step(image: Array, state: optax.OptState, model: nnx.Module) -> tuple:
        value, gradient = nnx.value_and_grad(loss)(image, model)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(image, updates), state, value

    image, state, losses = content, optimizer.init(content), []
    for number in range(STEPS):
        image, state, value = step(image, state, model)
        losses.append(float(value))
        if number % 20 == 0:
            print(f"step {number:3}: loss {value:.4f}")
    if len(sys.argv) > 1:
        from PIL import Image

        pixels = np.clip(np.asarray(image[0]) * 127 + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(sys.argv[1])
    print(f"the loss is {losses[-1] / losses[0]:.1%} of that at the start")
    return losses[-1] / losses[0]


if __name__ == "__main__":
    sys.exit(main() > 0.1)
