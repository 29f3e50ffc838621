"""Deployment: a Caffe network as a StableHLO program, which runs without Flax.

    python examples/deploy_stablehlo.py

exports the network of `caffe2flax demo` with its weights inside, and runs the program
in a process that has neither Flax nor this package, at three batch sizes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import caffe2flax

DIGITS = Path(__file__).parents[1] / "fixtures" / "digits"
SERVER = """
import sys
sys.modules["flax"] = sys.modules["caffe2flax"] = None  # as if not installed
from pathlib import Path
import jax.export
import numpy as np

program = jax.export.deserialize(Path("program/digits.stablehlo").read_bytes())
images = np.load("images.npy")
np.save("prob.npy", np.concatenate([program.call(images[a:b])
                                    for a, b in ((0, 1), (1, 8), (8, 360))]))
"""


def main() -> int:
    net, weights = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
    with np.load(DIGITS / "digits_test.npz") as test:
        images, wanted = test["data"].astype(np.float32) / 16, test["prob"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caffe2flax.export(
            net,
            weights,
            to="stablehlo",
            path=folder / "program",
            bundle=True,
            name="Digits",
        )
        np.save(folder / "images.npy", images.transpose(0, 2, 3, 1))  # N, H, W, C
        subprocess.run([sys.executable, "-c", SERVER], cwd=folder, check=True)
        difference = np.abs(np.load(folder / "prob.npy") - wanted).max()
    print(f"{len(images)} digits, at most {difference:.1e} from what Caffe computes")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
