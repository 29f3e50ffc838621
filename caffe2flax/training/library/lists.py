"""Images that a list in a text file names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caffe2flax.training.library.image import decode, resize


class ImageList:
    """The images of a list, `path label` on each line: (image, label).

    root stands before each path, `folder` is where relative ones are. size: height and
    width that images are resized to. color: False for gray.
    """

    def __init__(
        self,
        path: str,
        folder: str = "",
        root: str = "",
        size: tuple[int, int] | None = None,
        color: bool = True,
    ):
        self.size, self.color = size, color
        self.items = list[tuple[str, int]]()
        for number, line in enumerate(Path(path).read_text().splitlines(), 1):
            name, blank, label = line.rpartition(" ")
            if not blank or not label.strip().lstrip("-").isdigit():
                raise ValueError(f"{path}:{number}: no label behind the last blank")
            self.items.append((os.path.join(folder, root + name), int(label)))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        file, label = self.items[i]
        try:
            image = decode(Path(file).read_bytes(), self.color)
        except Exception as error:
            raise ValueError(f"{file}: {error}") from error
        return resize(image, *self.size) if self.size else image, label
