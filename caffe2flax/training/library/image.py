"""Images as OpenCV reads and resizes them, in Caffe's order of channels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def decode(data: bytes, color: bool | None = None) -> Any:
    """The pixels of an image file (height, width, channels), as OpenCV reads them:
    colours as B, G, R. `color`: gray becomes colour (True) or colour gray (False)."""
    from PIL import Image, ImageOps

    formats = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG2000")
    image: Image.Image = Image.open(io.BytesIO(data), formats=formats)
    decoder = image.format
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of more than 8 bits ({image.mode})")
    if color is False:
        image.draft("L", image.size)  # a JPEG has its gray in it
    if color is None:
        alpha = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
        mode = "RGBA" if alpha else "L" if image.mode in ("1", "L") else "RGB"
    else:
        image = ImageOps.exif_transpose(image)
        mode = "L" if not color and image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image.convert(mode))
    if mode == "L":
        return pixels[..., None]
    if color is False:
        sums = pixels @ np.array([4899, 9617, 1868]) + 2**13 >> 14
        if decoder == "PNG":  # libpng rounds down
            sums = pixels @ np.array([9797, 19234, 3737]) >> 15
        return sums[..., None].astype(np.uint8)
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def resize(image: Any, height: int, width: int) -> Any:
    """cv2.resize of bytes: bilinear between pixel centres, in integers."""

    def taps(old: int, new: int) -> tuple[Any, Any]:
        exact = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(exact)
        part = (exact - first) * np.float32(2048)
        pixels = np.stack([first, first + 1]).clip(0, old - 1).astype(int)
        return pixels, np.rint([2048 - part, part]).astype(np.int32)

    rows, down = taps(image.shape[0], height)
    columns, along = taps(image.shape[1], width)
    along[:, columns[0] == columns[1]] = [[2048], [0]]  # OpenCV: not so for rows
    wide = image[:, columns] * along[..., None]  # (old height, 2, width, channels)
    sums = (wide[:, 0] + wide[:, 1]) >> 4
    mixed = (sums[rows] * down[..., None, None]) >> 16
    return ((mixed[0] + mixed[1] + 2) >> 2).astype(np.uint8)


def transform(
    image: Any,
    rng: np.random.Generator,
    *,
    crop: int = 0,
    middle: bool = False,
    mean: Any = None,
    mirror: bool = False,
    scale: float = 1.0,
) -> Any:
    """Caffe's transform_param, in its order: crop, minus mean, mirror, times scale.

    The crop is at random, or from the `middle`. mean: (channels,), or (height, width,
    channels) of the whole image. Returns float32 (height, width, channels).
    """
    top = left = 0
    if mean is not None and mean.shape[-1] not in (1, image.shape[2]):
        raise ValueError(f"mean of {mean.shape[-1]} channels, image {image.shape}")
    if mean is not None and mean.ndim == 3 and mean.shape != image.shape:
        raise ValueError(f"mean of shape {mean.shape}, image {image.shape}")
    if crop:
        spare = [extent - crop for extent in image.shape[:2]]
        if min(spare) < 0:
            raise ValueError(f"crop of {crop} x {crop}, image {image.shape}")
        top, left = (n // 2 if middle else int(rng.integers(n + 1)) for n in spare)
        image = image[top : top + crop, left : left + crop]
    x = image.astype(np.float32)
    if mean is not None and mean.ndim == 3:
        mean = mean[top : top + x.shape[0], left : left + x.shape[1]]
    if mean is not None:
        x -= mean
    if mirror and rng.integers(2):
        x = x[:, ::-1]
    return x * np.float32(scale)
