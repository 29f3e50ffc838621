"""An SSD on a photograph: its boxes, drawn.

    python examples/detect.py [PHOTO [BOXES.png]]

runs ssd.py, the module of a small SSD, from pixels to boxes in one call. Its weights
are random, the same every time, so that the boxes are, too: with your net and its
.caffemodel, `SSD.from_pretrained()` finds what it was trained for. Without PHOTO, a
picture is made. `caffe2flax predict -o FOLDER` draws the boxes of any detector.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))

from ssd import SSD

SIZE = 160
"""Height and width of the net's input."""
MEAN, SCALE = (104, 117, 123), 0.01
"""What the net expects to be subtracted from B, G, R, and the factor for the rest."""
MOST = 10
"""How many boxes are drawn."""


def made_photo() -> Image.Image:
    """A disc on a ground that changes from left to right."""
    rows, columns = np.mgrid[:240, :320]
    disc = (rows - 120) ** 2 + (columns - 200) ** 2 < 60**2
    pixels = np.stack([columns // 2, rows // 2, np.full_like(rows, 90)], -1)
    pixels[disc] = (230, 180, 40)
    return Image.fromarray(pixels.astype(np.uint8))


def detect(photo: Image.Image) -> np.ndarray:
    """Rows (class, score, left, top, right, bottom) in pixels of the photograph, the
    best first."""
    small = np.asarray(photo.resize((SIZE, SIZE)), np.float32)[None, ..., ::-1]
    images = (small - np.array(MEAN, np.float32)) * np.float32(SCALE)
    model = SSD(rngs=nnx.Rngs(0))
    model.eval()
    rows = np.asarray(jax.jit(lambda model, x: model(x))(model, images))
    rows = rows.reshape(-1, 7)  # image, class, score, corners in parts of the image
    rows = rows[rows[:, 1] > 0]  # the last rows are unused
    rows = rows[np.argsort(-rows[:, 2])][:MOST, 1:]
    return rows * (1, 1, photo.width, photo.height, photo.width, photo.height)


def main() -> bool:
    """Whether boxes were found and drawn."""
    photo = made_photo()
    if len(sys.argv) > 1:
        with Image.open(sys.argv[1]) as image:
            photo = image.convert("RGB")
    draw = ImageDraw.Draw(photo)
    rows = detect(photo)
    for number, score, *corners in rows:
        print(f"class {number:.0f}: {score:.2f} at", *(f"{x:.0f}" for x in corners))
        left, top, right, bottom = corners
        if left < right and top < bottom:
            draw.rectangle((left, top, right, bottom), outline=(255, 0, 0), width=2)
    if len(sys.argv) > 2:
        photo.save(sys.argv[2])
    return len(rows) > 0


if __name__ == "__main__":
    sys.exit(not main())
