"""A folder with a module and all that a person needs who publishes or uses it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Unpack

import numpy as np

from caffe2flax.codegen.names import module_stem
from caffe2flax.conversion import VERSION, Conversion, Weights, read_graph, weight_paths
from caffe2flax.errors import ConversionError
from caffe2flax.exports import preprocess
from caffe2flax.exports.card import card
from caffe2flax.exports.config import configuration, takes_images
from caffe2flax.files.atomic import Write
from caffe2flax.files.bounded import read_bytes
from caffe2flax.frontend.source import PathOrText, carries_weights, is_text
from caffe2flax.options import NetOptions
from caffe2flax.verification.parity import parity_test
from caffe2flax.verification.report import Report
from caffe2flax.weights.safetensors import write_safetensors

CHUNK = 2**20
"""How many bytes of a file are read at a time."""


@dataclass(frozen=True, slots=True)
class Images:
    """How images are prepared, beside what the net and `mean` and `scale` say.

    labels: names of the classes. resize: height and width before the crop. order: "BGR"
    or "RGB"; None assumes the first.
    """

    labels: Sequence[str] | str | os.PathLike[str] = ()
    resize: tuple[int, int] | None = None
    order: str | None = None

    @property
    def rgb(self) -> bool | None:
        """Whether the channels are R, G, B. Raises ConversionError."""
        if self.order not in (None, "BGR", "RGB"):
            raise ConversionError(f"channels are BGR or RGB, not {self.order!r}")
        return None if self.order is None else self.order == "RGB"

    def names(self) -> tuple[str, ...]:
        """The labels, out of their file where a path is given."""
        if not isinstance(self.labels, str | os.PathLike):
            return tuple(self.labels)
        text = read_bytes(Path(self.labels), "text_bytes").decode(
            "utf-8-sig", "replace"
        )
        return tuple(line.strip() for line in text.rstrip().split("\n"))


def digests(prototxt: PathOrText, weights: Weights | None) -> dict[str, str]:
    """The SHA-256 of each file by its name."""
    found: dict[str, str] = {}
    if is_text(prototxt):
        text = str(prototxt).encode("utf-8", "surrogateescape")
        found["the prototxt, as text"] = hashlib.sha256(text).hexdigest()
    paths = [] if is_text(prototxt) else [prototxt]
    for path in [*paths, *weight_paths(weights)]:
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        found[os.path.basename(path)] = digest.hexdigest()
    return found


def picture(prototxt: PathOrText, **options: Unpack[NetOptions]) -> bytes:
    """The net as SVG; empty where Graphviz is not installed."""
    from caffe2flax.drawing.dot import render
    from caffe2flax.drawing.picture import DRAWN
    from caffe2flax.drawing.picture import picture as draw

    with suppress(ConversionError):
        return render(draw(read_graph(prototxt, passes=DRAWN, **options)), "svg")
    return b""


def check_weights(prototxt: PathOrText, weights: Weights | None) -> None:
    """Raises ConversionError where there are no trained weights to publish."""
    if weights is None and not carries_weights(prototxt):
        raise ConversionError(
            "a folder to publish needs the weights: give a weights file"
        )


def targets(
    report: Report,
    folder: Path,
    *,
    images: Images,
    sources: Mapping[str, str],
    drawn: bytes,
) -> tuple[dict[Path, Write], tuple[str, ...]]:
    """What writes each file of the folder, and notes. Raises ConversionError where the
    module breaks, and for labels that do not fit."""
    conversion = report.conversion
    stem = module_stem(conversion.name)
    given: dict[str, Any] = {}
    if takes_images(conversion.graph):
        given = {"resized": images.resize, "rgb": images.rgb}
    config, notes = configuration(
        conversion.graph, conversion.name, stem, images.names(), **given
    )
    test, arrays = parity_test(report, folder / f"test_{stem}.py")
    text = card(
        report,
        stem=stem,
        version=VERSION,
        sources=sources,
        config=config,
        picture=f"{stem}.svg" if drawn else "",
    )
    texts = {
        f"{stem}.py": conversion.source,
        "config.json": json.dumps(config, indent=2) + "\n",
        "README.md": text,
        f"test_{stem}.py": test,
    }
    if "preprocess" in config:
        texts["preprocess.py"] = Path(preprocess.__file__).read_text(encoding="utf-8")
    contents = {name: text.encode() for name, text in texts.items()}
    if drawn:
        contents[f"{stem}.svg"] = drawn
    files: dict[Path, Write] = {
        folder / name: _writer(content) for name, content in contents.items()
    }
    files[folder / f"test_{stem}.npz"] = lambda stream: np.savez(
        stream, **dict[str, Any](arrays)
    )
    files[folder / f"{stem}.safetensors"] = _weights(conversion, sources)
    return files, notes


def _writer(content: bytes) -> Write:
    return lambda stream: stream.write(content)


def _weights(conversion: Conversion, sources: Mapping[str, str]) -> Write:
    weights = conversion.weights
    assert weights is not None
    metadata = {
        "format": "flax",
        "producer": f"caffe2flax {VERSION}",
        **{f"sha256 of {name}": digest for name, digest in sources.items()},
    }

    def write(stream: IO[bytes]) -> None:
        write_safetensors(stream, weights, metadata=metadata)

    return write
