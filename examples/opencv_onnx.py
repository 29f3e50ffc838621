"""From OpenCV 4 to 5: a Caffe network as an ONNX model, which any program reads.

    python examples/opencv_onnx.py

exports the network of `caffe2flax demo`, runs it with OpenCV 5 where that is installed,
otherwise with ONNX Runtime, and compares the results with Caffe's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import caffe2flax

DIGITS = Path(__file__).parents[1] / "fixtures" / "digits"


def run(model: Path, images: np.ndarray) -> np.ndarray:
    """The probabilities of images (N, C, H, W)."""
    try:
        import cv2
    except ImportError:
        import onnxruntime

        session = onnxruntime.InferenceSession(model)
        return np.asarray(session.run(["prob"], {"data": images})[0])
    net = cv2.dnn.readNetFromONNX(str(model))
    net.setInput(images, "data")
    return np.asarray(net.forward("prob"))


def main() -> int:
    net, weights = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
    with np.load(DIGITS / "digits_test.npz") as test:
        images, wanted = test["data"].astype(np.float32) / 16, test["prob"]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "digits.onnx")
        written = caffe2flax.export(net, weights, to="onnx", path=model, verify=True)
        if not written.ok:
            return 1
        difference = np.abs(run(model, images) - wanted).max()
    print(f"{len(images)} digits, at most {difference:.1e} from what Caffe computes")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
