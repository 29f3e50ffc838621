"""Photographs as the input of this folder's model, as Caffe's tools prepare them.

    from preprocess import prepare
    images = np.stack([prepare("cat.jpg")])  # N, H, W, C

Sizes, mean, scale and the order of channels are those of config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def prepare(path: str | Path, config: dict[str, Any] | None = None) -> Array:
    """(H, W, C) of an image file, float32: (crop(resize(x)) - mean) * scale. `config`
    is that of the folder unless another is given."""
    if config is None:
        text = Path(__file__).with_name("config.json").read_text(encoding="utf-8")
        config = json.loads(text)
    steps = config["preprocess"]
    channels, height, width = config["pretrained_cfg"]["input_size"]
    image = crop(resize(read(path, channels), steps["resize"]), (height, width))
    if steps["channel_order"] == "RGB":
        image = image[..., ::-1]
    mean = np.asarray(steps["mean"], np.float32)
    top: Array = (image.astype(np.float32) - mean) * np.float32(steps["scale"])
    return top


def read(path: str | Path, channels: int) -> Array:
    """(height, width, channels) of bytes: B, G, R, or gray; rotated as the camera was
    held."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
            raise ValueError(f"{path}: pixels of the kind {image.mode} are not read")
        upright = ImageOps.exif_transpose(image)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels[..., ::-1]


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear between pixel centres in OpenCV's integers; nothing is averaged when an
    image shrinks."""
    if image.shape[:2] == tuple(size):
        return image
    rows, high, low = _neighbours(image.shape[0], size[0])
    columns, near, far = _neighbours(image.shape[1], size[1])
    outside = columns[0] == columns[1]  # there OpenCV has the one pixel alone
    near[outside], far[outside] = 2048, 0
    x = image.astype(np.int32)
    across = x[:, columns[0]] * near[:, None] + x[:, columns[1]] * far[:, None]
    upper, lower = across[rows[0]] >> 4, across[rows[1]] >> 4
    mixed = (upper * high[:, None, None] >> 16) + (lower * low[:, None, None] >> 16)
    top: Array = (mixed + 2 >> 2).astype(np.uint8)
    return top


def _neighbours(extent: int, size: int) -> tuple[Array, Array, Array]:
    """The two pixels of `extent` around each of `size` places, and their weights in
    2048ths."""
    exact = ((np.arange(size) + 0.5) * (extent / size) - 0.5).astype(np.float32)
    first = np.floor(exact)
    part = exact - first
    pixels = np.stack([first, first + 1]).clip(0, extent - 1).astype(np.intp)
    weights = np.rint((1 - part) * 2048), np.rint(part * 2048)
    return pixels, weights[0].astype(np.int32), weights[1].astype(np.int32)


def crop(image: Array, size: tuple[int, int]) -> Array:
    """The middle."""
    top, left = ((n - k) // 2 for n, k in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]
