"""Features of images, and the nearest neighbours among them.

    python examples/neighbours.py

computes the features of handwritten digits behind the layer ip1 of the network of
`caffe2flax demo`, and gives each new image the label of the known image whose features
are nearest to its own. The last layer, which Caffe trained for ten classes, is not
used: this works as well for classes that a network has never seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import caffe2flax

DIGITS = Path(__file__).parents[1] / "fixtures" / "digits"
KNOWN = 240
"""The first images have labels, those behind them get one."""


def normalized(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, so that their products are cosines."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def main() -> float:
    """The share of right labels."""
    with np.load(DIGITS / "digits_test.npz") as test:
        images = test["data"].transpose(0, 2, 3, 1).astype(np.float32) / 16
        labels = test["label"].astype(int)
    net, weights = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
    features = caffe2flax.features(net, weights, ["ip1"])  # a function of N, H, W, C
    rows = normalized(np.asarray(features(images)["ip1"]))
    cosines = rows[KNOWN:] @ rows[:KNOWN].T
    nearest = cosines.argmax(1)
    right = float((labels[:KNOWN][nearest] == labels[KNOWN:]).mean())
    for number in range(5):
        known = nearest[number]
        print(
            f"image {KNOWN + number}, a {labels[KNOWN + number]}: the nearest is image "
            f"{known}, a {labels[known]}, cosine {cosines[number, known]:.3f}"
        )
    print(f"{right:.1%} of {len(cosines)} images have the label of their neighbour")
    return right


if __name__ == "__main__":
    sys.exit(main() < 0.95)
