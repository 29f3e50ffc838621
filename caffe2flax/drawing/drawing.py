"""A net as a picture that can be written and shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from caffe2flax.drawing.dot import FORMATS, render
from caffe2flax.drawing.picture import Picture, picture
from caffe2flax.errors import ConversionError
from caffe2flax.files.atomic import write_bytes
from caffe2flax.ir.graph import Graph


@dataclass(frozen=True, slots=True, repr=False)
class Drawing:
    """A picture of a net. left_out: the layers that it does not show, and why."""

    picture: Picture
    left_out: tuple[str, ...]

    def render(self, format_: str = "svg") -> bytes:
        """The content of an svg, png, pdf or dot file. Raises ConversionError where
        Graphviz is not installed, for all but dot its program, too."""
        if format_ not in FORMATS:
            known = ", ".join(FORMATS)
            raise ConversionError(f"{format_!r} is none of the formats {known}")
        return render(self.picture, format_)

    def write(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Writes the picture in the format of the path's ending. Raises
        ConversionError, FileExistsError and OSError."""
        content = self.render(Path(path).suffix.removeprefix("."))
        return write_bytes(Path(path), content, force)

    @property
    def counts(self) -> str:
        layers = sum(len(box.parts) for box in self.picture.boxes)
        blocks = {box.block for box in self.picture.boxes if box.block}
        name = self.picture.name
        return f"{name}: {layers:,} layers, {len(blocks):,} repeated blocks"

    def __repr__(self) -> str:
        return f"Drawing({self.counts})"

    def _repr_svg_(self) -> str | None:
        try:
            return self.render().decode()
        except ConversionError:  # a notebook then shows the text
            return None


def draw(graph: Graph) -> Drawing:
    """The drawing of a graph after the passes `picture.DRAWN`."""
    left = (f"left out {d.type} {d.name!r}: {d.reason}" for d in graph.remarks.dropped)
    return Drawing(picture(graph), tuple(left))
