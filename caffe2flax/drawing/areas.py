"""Where a drawing has the boxes of its picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from caffe2flax.drawing.picture import Picture

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
SVG = "{http://www.w3.org/2000/svg}"
BOX = re.compile(r"n(\d+)")


@dataclass(frozen=True, slots=True)
class Area:
    """The place of a box, by number, in points from the upper left corner."""

    box: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Located:
    """A picture, its SVG as Graphviz wrote it, its size in points, and its boxes."""

    picture: Picture
    svg: bytes
    width: float
    height: float
    areas: tuple[Area, ...]


def located(picture: Picture, svg: bytes) -> Located:
    """The places of the boxes of `picture` in `svg`, its drawing by Graphviz; none
    where a name has made the drawing no XML."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return Located(picture, svg, 0, 0, ())
    left, top, width, height = map(float, NUMBER.findall(root.get("viewBox", "")))
    found = [area for group in root.iter(f"{SVG}g") for area in _areas(group)]
    # The group of all is moved: its lower left corner is at (0, 0).
    moves = NUMBER.findall(root[0].get("transform", "").partition("translate")[2])
    right, down = map(float, moves[:2])
    placed = (
        Area(a.box, a.x + right - left, a.y + down - top, a.width, a.height)
        for a in found
    )
    return Located(picture, svg, width, height, tuple(placed))


def _areas(group: ElementTree.Element) -> Iterator[Area]:
    """The area of a group that is a box: nothing else has a title like `n12`."""
    match = BOX.fullmatch(group.findtext(f"{SVG}title", ""))
    if group.get("class") != "node" or match is None:
        return
    shape = group.find(f"{SVG}path")
    if shape is None:
        return  # an oval, which is an end of the net
    numbers = [float(text) for text in NUMBER.findall(shape.get("d", ""))]
    xs, ys = numbers[::2], numbers[1::2]
    size = max(xs) - min(xs), max(ys) - min(ys)
    yield Area(int(match[1]), min(xs), min(ys), *size)
