"""Classifies the images of a folder with a converted network.

    python examples/classify.py [FOLDER]

Without FOLDER, it writes twenty handwritten digits as PNG files and classifies these,
with the network of `caffe2flax demo`, which Caffe trained. `caffe2flax predict` does
the same for any net; this is how to do it in a program of your own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import caffe2flax

DIGITS = Path(__file__).parents[1] / "fixtures" / "digits"
SIZE = 28
"""Height and width of the net's input."""


def write_digits(folder: Path) -> None:
    """Twenty images, whose names start with their digit."""
    with np.load(DIGITS / "digits_test.npz") as test:
        for number in range(20):
            pixels = test["data"][number, 0].astype(np.float32) * 255 / 16
            image = Image.fromarray(np.rint(pixels).astype(np.uint8))
            image.save(folder / f"{test['label'][number]}_{number:02}.png")


def read(path: Path) -> np.ndarray:
    """The image as the network was trained on it: (H, W, 1), gray, 0 to 1."""
    with Image.open(path) as image:
        gray = image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(gray, np.float32)[..., None] / 255


def classify(folder: Path) -> dict[str, int]:
    """The class of each image, by the name of its file."""
    # With a module that you keep: DigitsLeNet.from_pretrained().
    model = caffe2flax.load(
        DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
    )
    files = sorted(folder.iterdir())
    images = np.stack([read(path) for path in files])
    prob = np.asarray(jax.jit(lambda model, x: model(x))(model, images))
    for path, scores in zip(files, prob, strict=True):
        print(f"{path.name}: {scores.argmax()} ({scores.max():.1%})")
    return {path.name: int(row.argmax()) for path, row in zip(files, prob, strict=True)}


def main() -> bool:
    """Whether all digits are right, where they are known."""
    if len(sys.argv) > 1:
        classify(Path(sys.argv[1]))
        return True
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder))
        found = classify(Path(folder))
    return all(name.startswith(f"{digit}_") for name, digit in found.items())


if __name__ == "__main__":
    sys.exit(not main())
