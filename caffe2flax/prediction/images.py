"""Image files -> the input of a net, with exactly the pixels that Caffe prepares."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, Problem, Span, optional
from caffe2flax.files.bounded import opened
from caffe2flax.limits import current

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "DIB",
    "PPM",
    "TIFF",
    "WEBP",
    "GIF",
    "JPEG2000",
)
"""The formats that are read: those of pixels only, none that runs an interpreter."""
ORIENTING = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
"""The formats that may have an orientation, which takes time to read."""
DEEP = ("I;16", "I;16B", "I;16L")
CHUNK = 2**15
"""How many elements of the result are computed at a time, to fit into the cache."""
BITS = 11
"""OpenCV's weights for bytes are integers, in 2048ths."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """y = (crop(resize(x)) - mean) * scale, in float32.

    size: height and width of the net's input. before: height and width that an image is
    resized to; if larger than `size`, the middle is cropped. mean: (C,) or (H, W, C),
    None for none. rgb: whether the net's channels are R, G, B and not Caffe's B, G, R.
    """

    channels: int
    size: tuple[int, int]
    before: tuple[int, int]
    mean: Floats | None = None
    scale: float = 1.0
    rgb: bool = False

    @property
    def words(self) -> str:
        """What is done to an image, in words."""
        parts = ["gray" if self.channels == 1 else "RGB" if self.rgb else "BGR"]
        parts.append(f"resized to {self.before[0]} x {self.before[1]}")
        if self.before != self.size:
            parts.append(f"its middle of {self.size[0]} x {self.size[1]}")
        if self.mean is not None:
            means = self.mean.reshape(-1, self.mean.shape[-1])
            shown = ", ".join(f"{number:.6g}" for number in means.mean(0))
            constant = bool((means == means[0]).all())
            parts.append(f"mean {shown}" + ("" if constant else " (per pixel)"))
        else:
            parts.append("no mean")
        if self.scale != 1:
            parts.append(f"times {self.scale:g}")
        return ", ".join(parts)

    def prepare(self, image: Pixels) -> Floats:
        """(H, W, C) of an image (height, width, C), B before G before R."""
        x = crop(resize(image, self.before), self.size)
        if self.rgb:
            x = x[..., ::-1]
        y = np.empty(x.shape, np.float32)
        for channel in range(x.shape[2]):  # long loops where x is a transposed view
            y[..., channel] = x[..., channel]
        if self.mean is not None:
            y -= self.mean
        if self.scale != 1:
            y *= np.float32(self.scale)
        return y

    def undo(self, image: Floats) -> Floats:
        """The pixels (H, W, C) of an image on the scale of the net's input: R, G, B, or
        gray. Of a mean with pixels of its own, the mean of each channel counts."""
        y = np.asarray(image, np.float32)
        y = y / np.float32(self.scale) if self.scale else y
        if self.mean is not None:
            mean = self.mean.reshape(-1, self.mean.shape[-1]).mean(0)
            y = y + (mean if len(mean) == y.shape[2] else mean.mean())
        return y if self.rgb else y[..., ::-1]

    def place(self, parts: NDArray[Any], photo: tuple[int, int]) -> NDArray[np.float64]:
        """Positions (N, 2) of x and y, in parts of the input, as pixels of a photograph
        of this height and width."""
        (height, width), (high, wide) = self.size, self.before
        offset = ((wide - width) // 2, (high - height) // 2)
        scale = (photo[1] / wide, photo[0] / high)
        placed: NDArray[np.float64] = (parts * (width, height) + offset) * scale
        return placed

    def unplace(self, pixels: NDArray[Any], extent: int, axis: int) -> NDArray[Any]:
        """Positions along an axis of a photograph of `extent` pixels, in parts of the
        input; outside of 0 to 1 where the net does not see them."""
        size, before = self.size[axis], self.before[axis]
        return (pixels * before / extent - (before - size) // 2) / size


def decode(path: Path, channels: int) -> Pixels:
    """(height, width, channels) of a file: 3 for B, G, R, or 1 for gray.

    As OpenCV reads it: rotated by its EXIF orientation, without alpha, the upper byte
    of 16 bits. Raises ConversionError where the file is no image or a damaged one,
    OSError where it cannot be read.
    """
    with optional("an image", "Pillow", "predict"):
        from PIL import Image, UnidentifiedImageError

    with opened(path) as stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                limits = current()
                if image.width * image.height > limits.image_pixels:
                    what = f"an image of {image.width} x {image.height} pixels"
                    raise ConversionError(limits.refusal("image_pixels", what))
                return _pixels(image, channels)
        except ConversionError as error:
            raise error.at(Span(str(path))) from None
        except UnidentifiedImageError:
            message = "this is no image of a known format"
        except MemoryError:
            raise
        except Exception as error:  # decoders may raise anything on damaged files
            message = f"this image is damaged: {error}"
    raise ConversionError(Problem(message, Span(str(path))))


def _pixels(image: Image.Image, channels: int) -> Pixels:
    image.load()
    if image.format == "TIFF" or not ORIENTING.isdisjoint(image.info):
        from PIL import ImageOps

        ImageOps.exif_transpose(image, in_place=True)
    # Until Pillow 10.2, a PNG of 16 bits had pixels of 32.
    if image.mode in DEEP or (image.mode == "I" and image.format == "PNG"):
        gray = (np.asarray(image) >> 8).astype(np.uint8)[..., None]
        return np.repeat(gray, channels, axis=2)
    if image.mode in ("LAB", "HSV"):  # which OpenCV reads differently
        raise ConversionError(f"colours as {image.mode}: RGB, CMYK and grey are read")
    if image.mode in ("I", "F"):
        raise ConversionError(f"pixels of 32 bits ({image.mode}): 8 or 16 are read")
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        pixels = np.asarray(image)
    else:
        if "transparency" in image.info:
            image = image.convert("RGBA")
        pixels = np.asarray(image.convert(mode))
    return pixels[..., None] if channels == 1 else pixels[..., ::-1]


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """(*size, C): bilinear between pixel centres, in OpenCV's integer arithmetic.

    cv2.resize with its default INTER_LINEAR, with which Caffe's tools resize; nothing
    is averaged when an image shrinks.
    """
    if image.shape[:2] == size:
        return image
    if image.strides[2] < 0:  # B, G, R as a view of R, G, B: reversed when it is small
        return resize(image[..., ::-1], size)[..., ::-1]
    rows, high, low = _taps(image.shape[0], size[0])
    columns, near, far = _taps(image.shape[1], size[1])
    # At the left and right edges OpenCV drops the weight of the missing pixel, at the
    # top and bottom it does not, which differs in rounding.
    outside = columns[0] == columns[1]
    near[outside], far[outside] = 1 << BITS, 0
    done = np.empty((*size, image.shape[2]), np.uint8)
    step = max(1, CHUNK // done[0].size)
    for start in range(0, size[0], step):
        part = slice(start, start + step)
        lines, places = np.unique(rows[:, part], return_inverse=True)
        upper, lower = places.reshape(2, -1)  # which numpy 2.0 returns flat
        across = _blend(image[lines], columns, near, far) >> 4
        mixed = across[upper] * high[part, None] >> 16
        mixed += across[lower] * low[part, None] >> 16
        mixed += 2
        mixed >>= 2
        done[part] = mixed.reshape(-1, *done.shape[1:])
    return done


def _blend(
    lines: Pixels,
    columns: NDArray[np.intp],
    near: NDArray[np.int32],
    far: NDArray[np.int32],
) -> NDArray[np.int32]:
    """(lines, size * C): the pixels of a row in one axis, so that numpy's loops are
    long."""
    count, _, channels = lines.shape
    left = np.take(lines, columns[0], axis=1).reshape(count, -1)
    right = np.take(lines, columns[1], axis=1).reshape(count, -1)
    total: NDArray[np.int32] = left * np.repeat(near, channels)
    total += right * np.repeat(far, channels)
    return total


def _taps(
    extent: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """For each of `size` positions the two pixels of `extent` around it (2, size), and
    their weights."""
    exact = ((np.arange(size) + 0.5) * (extent / size) - 0.5).astype(np.float32)
    first = np.floor(exact)
    part = exact - first
    pixels = np.stack([first, first + 1]).clip(0, extent - 1).astype(np.intp)
    one = np.float32(1 << BITS)
    weights = np.rint((1 - part) * one), np.rint(part * one)
    return pixels, weights[0].astype(np.int32), weights[1].astype(np.int32)


def crop(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The middle of an image (height, width, ...), as Caffe crops it in TEST."""
    top, left = ((n - k) // 2 for n, k in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The files of `paths`: for a folder all files in it, sorted, without hidden ones.
    Raises ConversionError for a folder without files."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = list(_walk(path))
        if not files:
            raise ConversionError(Problem("the folder holds no files", Span(str(path))))
        yield from files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(parent, name)
