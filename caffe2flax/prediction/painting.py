"""Results as pictures: boxes, labels and points on the photograph, flow as colours."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError, printable
from caffe2flax.prediction.images import decode
from caffe2flax.prediction.results import (
    OUTSIDE,
    Classes,
    Detections,
    Flow,
    Keypoints,
    Labels,
    Picture,
    Result,
)

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Names = Mapping[int, str]
Colour = tuple[int, int, int]

MOST_NAMED = 24
"""How many classes a legend has at most."""
LONGEST = 32
"""The longest caption, in characters."""


def paint(path: Path, result: Result, names: Names) -> dict[str, bytes]:
    """PNG files by the ending of their names. Raises ConversionError where the
    photograph cannot be read, or where there is nothing to draw."""
    from PIL import Image

    match result:
        case Detections():
            return {"": _png(_boxed(_photo(path), result, names))}
        case Keypoints():
            return {"": _png(_dotted(_photo(path), result))}
        case Labels(numbers):
            indexed = Image.fromarray(numbers)
            indexed.putpalette(palette().tobytes())
            overlay = _overlaid(_photo(path), numbers, names)
            return {"": _png(indexed), "_overlay": _png(overlay)}
        case Picture(pixels):
            gray = pixels.shape[2] == 1
            return {"": _png(Image.fromarray(pixels[..., 0] if gray else pixels))}
        case Flow(shifts):
            return {"": _png(Image.fromarray(flow_colours(shifts)))}
        case Classes():
            pass
    raise ConversionError("the best classes of an image are not drawn: leave out -o")


def palette() -> NDArray[np.uint8]:
    """A colour for each of 256 classes (256, 3): black for 0, the others far apart.
    The bits of a number are dealt to red, green and blue, the lowest first."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        bits = numbers >> 3 * place
        for channel in range(3):
            colours[:, channel] |= (bits >> channel & 1) << 7 - place
    return colours.astype(np.uint8)


def flow_colours(shifts: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) for shifts (H, W, 2): the hue is the direction, white is no
    motion, the full colour the largest one in the image."""
    from PIL import Image

    known = np.nan_to_num(shifts.astype(np.float64), posinf=0, neginf=0)
    lengths = np.hypot(known[..., 0], known[..., 1])
    angles = np.arctan2(known[..., 1], known[..., 0]) / (2 * np.pi) % 1
    part = lengths / max(lengths.max(initial=0), 1e-9)
    bands = (angles * 255, part * 255, np.full_like(part, 255))
    hsv = [Image.fromarray(np.rint(band).astype(np.uint8)) for band in bands]
    return np.asarray(Image.merge("HSV", hsv).convert("RGB"))


def _photo(path: Path) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(decode(path, 3)[..., ::-1]))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _colour(number: int) -> Colour:
    """A bright colour for a class or a point."""
    import colorsys

    hue = number * 0.61803398875 % 1  # far from those of the numbers before
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _font(image: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(max(10, min(image.size) // 30))


def _boxed(photo: Image.Image, result: Detections, names: Names) -> Image.Image:
    """The best box is drawn last, above the others."""
    from PIL import ImageDraw

    draw, font = ImageDraw.Draw(photo), _font(photo)
    line = max(2, min(photo.size) // 200)
    wide, high = photo.size
    for box in reversed(result.boxes):
        sides = (box.left, box.top, box.right, box.bottom)
        if not all(map(isfinite, sides)):
            continue
        # Far outside nothing is seen, and a drawing of any size would be tried.
        limits = ((-wide, 2 * wide), (-high, 2 * high)) * 2
        left, top, right, bottom = (
            round(min(max(side, low), most))
            for side, (low, most) in zip(sides, limits, strict=True)
        )
        if right < left or bottom < top:
            continue
        colour = _colour(box.number)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        name = names.get(box.number, str(box.number))
        caption = f"{printable(name)[:LONGEST]} {box.score:.2f}"
        _caption(draw, font, (left, top), caption, colour, photo.size)
    return photo


def _caption(
    draw: ImageDraw.ImageDraw,
    font: Any,
    place: tuple[int, int],
    text: str,
    colour: Colour,
    size: tuple[int, int],
) -> None:
    """A caption above `place`, or below it where there is no room."""
    _, _, wide, high = (round(n) for n in draw.textbbox((0, 0), text, font))
    x = min(max(place[0], 0), max(0, size[0] - wide - 4))
    y = place[1] - high - 4 if place[1] >= high + 4 else max(place[1], 0)
    draw.rectangle((x, y, x + wide + 4, y + high + 4), fill=colour)
    draw.text((x + 2, y + 2), text, (0, 0, 0), font)


def _dotted(photo: Image.Image, result: Keypoints) -> Image.Image:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(photo)
    radius = max(2, min(photo.size) // 100)
    wide, high = photo.size
    for point in result.points:
        if -wide <= point.x <= 2 * wide and -high <= point.y <= 2 * high:
            x, y = point.x - 0.5, point.y - 0.5  # from corners to middles of pixels
            area = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(area, fill=_colour(point.number), outline=(0, 0, 0))
    return photo


def _overlaid(
    photo: Image.Image, numbers: NDArray[np.uint8], names: Names
) -> Image.Image:
    """The photograph, half covered by the colours of the classes, and a legend."""
    from PIL import Image, ImageDraw

    colours = palette()
    pixels = np.asarray(photo).astype(np.uint16)
    mixed = ((pixels + colours[numbers]) // 2).astype(np.uint8)
    mixed[numbers == OUTSIDE] = pixels[numbers == OUTSIDE]
    counts = np.bincount(numbers.reshape(-1), minlength=OUTSIDE + 1)[:OUTSIDE]
    shown = [int(i) for i in np.argsort(-counts, kind="stable")[:MOST_NAMED]]
    shown = [number for number in shown if counts[number]]
    captions = [printable(names.get(i, str(i)))[:LONGEST] for i in shown]
    font = _font(photo)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [ruler.textbbox((0, 0), text, font) for text in captions]
    step = round(max((box[3] for box in boxes), default=0)) + 6
    wide = round(max((box[2] for box in boxes), default=0)) + step + 10
    high = max(photo.height, step * len(shown) + 8)
    made = Image.new("RGB", (photo.width + wide, high), (255, 255, 255))
    made.paste(Image.fromarray(mixed), (0, 0))
    draw = ImageDraw.Draw(made)
    for place, (number, text) in enumerate(zip(shown, captions, strict=True)):
        x, y = photo.width + 6, 4 + place * step
        red, green, blue = map(int, colours[number])
        square = (x, y, x + step - 4, y + step - 4)
        draw.rectangle(square, fill=(red, green, blue), outline=(90, 90, 90))
        draw.text((x + step, y), text, (0, 0, 0), font)
    return made
