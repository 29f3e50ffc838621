"""A small net that Caffe trained, converted and compared with Caffe's own results."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe2flax.errors import ConversionError, Problem, Span

NAME = "DigitsLeNet"
LEDGER = ".caffe2flax-demo.json"
"""The file with the digest of each file of the demo, to distinguish them from
others."""

PIXEL_SCALE = 16
"""The scale of the stored images; the net was trained on 0 to 1."""
SHADES = {True: " ▀▄█", False: " '.#"}


@dataclass(frozen=True, slots=True)
class Demo:
    """The files of the demo, and its results."""

    paths: tuple[Path, ...]
    """The generated module and its weights."""
    sources: tuple[Path, Path, Path]
    """The prototxt, the caffemodel and the images as .npz, to experiment with."""
    name: str
    """The generated class."""
    images: np.ndarray
    """N, C, H, W; 0 to 1."""
    labels: np.ndarray
    predicted: np.ndarray
    difference: float
    """The largest difference between a probability and Caffe's."""

    @property
    def module(self) -> str:
        return self.paths[0].stem

    @property
    def correct(self) -> int:
        return int(np.count_nonzero(self.labels == self.predicted))

    def drawing(self, *, solid: bool = True) -> str:
        """Five digits side by side, the last one misread, with the predicted classes.

        In block characters if `solid`, otherwise in ASCII.
        """
        wrong = np.flatnonzero(self.labels != self.predicted)[:1]
        right = np.flatnonzero(self.labels == self.predicted)[: 5 - len(wrong)]
        columns = []
        for index in (*right, *wrong):
            label, read = self.labels[index], self.predicted[index]
            caption = f"{read}" if label == read else f"{read}, but is {label}"
            rows = _draw(self.images[index, 0], SHADES[solid])
            columns.append([*rows, caption.center(len(rows[0]))])
        return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def demo(directory: Path) -> Demo:
    """Convert the digits network into `directory`, run it, and compare with Caffe.

    The files of an earlier demo are replaced, other files are not changed.

    Raises:
        ConversionError: a file of the demo's name is not the demo's own.
        OSError: a file cannot be written.
    """
    from caffe2flax import convert, run

    data = _data()
    net, weights = data / "deploy.prototxt", data / "digits_lenet.caffemodel"
    with np.load(data / "digits_test.npz", allow_pickle=False) as test:
        images = test["data"].astype(np.float32) / PIXEL_SCALE
        labels, expected = test["label"], test["prob"]
    conversion = convert(net, weights, name=NAME)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=directory) as scratch:
        written = conversion.write(scratch)
        sources = (net, weights, Path(scratch, "images.npz"))
        for path in sources[:2]:
            shutil.copyfile(path, Path(scratch, path.name))
        np.savez_compressed(sources[2], data=images)
        _replace_own(Path(scratch), directory)
    prob = run(net, weights, {"data": images}, name=NAME)["prob"]
    copies = tuple(directory / path.name for path in sources)
    return Demo(
        paths=tuple(directory / path.name for path in written),
        sources=(copies[0], copies[1], copies[2]),
        name=conversion.name,
        images=images,
        labels=labels,
        predicted=prob.argmax(axis=1),
        difference=float(np.abs(prob - expected).max()),
    )


def _data() -> Path:
    """The folder of the network and its images: inside the package, or in a
    checkout."""
    package = Path(__file__).parent
    installed = package / "demo_data"
    return installed if installed.is_dir() else package.parent / "fixtures" / "digits"


def _replace_own(fresh: Path, directory: Path) -> None:
    """Move the files of `fresh` to `directory`; none where a file there is not the
    demo's own."""
    own = _ledger(directory)
    names = sorted(path.name for path in fresh.iterdir())
    foreign = [
        path
        for path in (directory / name for name in names)
        if os.path.lexists(path) and own.get(path.name, "") != _digest(path)
    ]
    if foreign:
        message = "is not the demo's own, or was changed; move it, or choose another -o"
        raise ConversionError(Problem(message, Span(str(path))) for path in foreign)
    digests = {name: _digest(fresh / name) for name in names}
    Path(directory, LEDGER).write_bytes(f"{json.dumps(digests, indent=2)}\n".encode())
    for name in names:
        os.replace(fresh / name, directory / name)


def _ledger(directory: Path) -> dict[str, object]:
    try:
        digests = json.loads(Path(directory, LEDGER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _digest(path: Path) -> str:
    if not path.is_file():
        return "no regular file"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _draw(image: np.ndarray, shades: str) -> list[str]:
    """An image (H, W) at half its size as text, two rows of pixels in one of text."""
    height, width = (extent - extent % 4 for extent in image.shape)
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    ink = blocks.mean(axis=(1, 3)) > 0.55
    codes = ink[::2] + 2 * ink[1::2]
    return ["".join(shades[code] for code in row) for row in codes]
