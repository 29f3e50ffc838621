"""What feeds a net: sources for its data layers, or arrays for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from caffe2flax.codegen.library import loaded_names
from caffe2flax.errors import ConversionError, Problem, Span, closest, optional
from caffe2flax.files.npz import read_npz
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.source import PathOrText
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.syntax import parse_module
from caffe2flax.training.data_feed import IMAGES, Feed, arrays_feed, functions
from caffe2flax.training.data_layers import DataLayer, batch_sizes, data_layers
from caffe2flax.training.data_text import feed

Override = str | os.PathLike[str] | Mapping[str, Any] | None
"""A database or list in place of the net's own, an .npz, or arrays by blob."""
LIBRARY = "caffe2flax.training.library"
CARRIED = {
    "Arrays": "arrays",
    "Hdf5Rows": "hdf5_source",
    "ImageList": "lists",
    "LevelDb": "leveldb_source",
    "Lmdb": "lmdb_source",
    "Windows": "windows",
    "batches": "batches",
    "join": "batches",
    "load_arrays": "arrays",
    "merge": "batches",
    "read_ahead": "batches",
    "read_mean": "datum",
    "transform": "image",
    "window_image": "windows",
}
"""What the text calls, and the file of the library that has it."""
PACKAGES = {"PIL": "pillow", "plyvel_next": "plyvel"}
COMPARED = 4
"""How many records are read to see whether they fit into one batch."""
LOOKED_FOR = 10000
"""How many files of a list are looked for before one is read."""
NEEDS = {
    "batches": ("a dataset", "grain", "train"),
    "hdf5_source": ("HDF5Data", "h5py", "data"),
    "lmdb_source": ("an LMDB", "lmdb", "data"),
}
"""By file of the library: what needs which package, of which extra; others need
Pillow."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What feeds a net: each layer, or all as one, and its text."""

    feeds: tuple[tuple[DataLayer, Feed], ...]
    arrays: Mapping[str, Any]
    """Given by blob, in place of files."""
    blobs: frozenset[str] | None = None

    def text(self, name: str, axes: Mapping[str, Sequence[int]] | None) -> str:
        """The function's text. Raises ConversionError."""
        if axes is None or any(f.axes.keys() - axes.keys() for _, f in self.feeds):
            shapes = self.shapes()
            default = {b: IMAGES for b, shape in shapes.items() if len(shape) == 4}
            axes = default | dict(axes or {})
        feeds = [f for _, f in self.feeds]
        return functions(feeds, name, axes, self.blobs)

    def shapes(self) -> dict[str, Shape]:
        """The shapes of a batch by blob, in Caffe's axis order, from the first records
        of each source. Raises ConversionError, also where these do not fit a batch."""
        found: dict[str, Shape] = {}
        for layer, each in self.feeds:
            text = functions([each], "peek", {}, self.blobs)
            with blamed(layer):
                call = self.function(
                    text,
                    "peek",
                    batches=partial(_first, layer, each),
                    read_ahead=lambda shapes, **_: shapes,
                    join=lambda shapes, _: shapes,
                )
                found |= call()
        return found

    def function(self, text: str, name: str, **changed: Any) -> Callable[..., Any]:
        """The function that a text defines; `changed`: keywords for what it calls, or
        what it calls instead. Raises ConversionError where a package is missing."""
        tree = parse_module(text)
        script = self.feeds[0][0].script
        here = None if script is None else os.path.realpath(script)
        known: dict[str, Any] = {"Any": Any, "np": np, "HERE": here}
        for used in sorted(loaded_names(tree) & CARRIED.keys()):
            module = CARRIED[used]
            change = changed.get(used, {})
            if callable(change):
                known[used] = change
                continue
            what, package, extra = NEEDS.get(module, ("an image", "pillow", "data"))
            with optional(what, package, extra):
                found = getattr(import_module(f"{LIBRARY}.{module}"), used)
            known[used] = partial(found, **change) if change else found
        if self.arrays:
            known["load_arrays"] = lambda _, names: {n: self.arrays[n] for n in names}
        exec(compile(text, "<data>", "exec"), known)
        made: Callable[..., Any] = known[name]
        return made


@contextmanager
def blamed(layer: DataLayer) -> Iterator[None]:
    """Makes what the readers raise, which may be anything, a ConversionError."""
    try:
        yield
    except (ConversionError, MemoryError):
        raise
    except Exception as error:
        cause = error if isinstance(error, ImportError) else error.__cause__
        if isinstance(cause, ImportError):
            package = (cause.name or "").partition(".")[0]
            package = PACKAGES.get(package, package)
            text = f"{layer.type} needs {package}: pip install 'caffe2flax[data]'"
            raise ConversionError(Problem(text, layer.span)) from None
        known = isinstance(error, ValueError)
        text = str(error) if known else f"cannot be read: {error}"
        raise layer.error(text, "source") from error


def _first(
    layer: DataLayer, feed: Feed, source: Any, prepare: Any, size: int, **_: Any
) -> dict[str, Shape]:
    """In place of `batches`: the shapes of a batch, from the first records."""
    if not len(source):
        raise ValueError("there is no data")
    if feed.axes and layer.type == "ImageData":
        for file, _label in source.items[:LOOKED_FOR]:
            if not os.path.exists(file):
                raise ValueError(f"{file} is not there")
    shapes: dict[str, Shape] = {}
    for i in range(min(size, len(source), COMPARED)):
        record = source[i]
        if feed.axes and layer.type in ("Data", "ImageData"):
            _check(layer, record[0].shape)
        item = prepare(record, np.random.default_rng(0))
        for blob, array in item.items():
            shape = feed.shape(blob, size, array.shape)
            if shapes.setdefault(blob, shape) != shape:
                text = f"record {i} has another size than those before, "
                text += f"{shape[1:]}, not {shapes[blob][1:]}: crop or resize them"
                raise ValueError(text)
    return shapes


def plan_of(
    prototxt: PathOrText | Message,
    phase: str,
    source: Override,
    level: int,
    stages: Sequence[str] | str,
    input_shapes: Mapping[str, Sequence[int]] | None,
    folder: str | os.PathLike[str] | None = None,
    blobs: frozenset[str] | None = None,
    script: Path | None = None,
) -> Plan:
    """See `data`, `data_shapes` and `data_source`. Raises ConversionError."""
    layers = data_layers(
        prototxt, phase, level=level, stages=stages, folder=folder, script=script
    )
    if blobs is not None:
        wanted = (x for x in layers if x.type != "DummyData")
        layers = tuple(x for x in wanted if not blobs.isdisjoint(x.tops))
    shapes = {blob: tuple(map(int, s)) for blob, s in (input_shapes or {}).items()}
    if isinstance(source, Mapping):
        return _arrays_plan(layers, source, "", shapes, blobs)
    path = None if source is None else os.fspath(source)
    if path is not None and path.endswith(".npz"):
        try:
            given = read_npz(Path(path))
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            raise ConversionError(Problem(text, Span(path))) from error
        return _arrays_plan(layers, given, path, shapes, blobs)
    if path is not None and not os.path.exists(path):
        raise ConversionError(Problem("there is no such file or folder", Span(path)))
    files = [x for x in layers if x.type not in ("DummyData", "Input", "MemoryData")]
    if path is not None and len(files) != 1:
        text = f"the net has {len(files)} layers that read files, for one source"
        raise ConversionError(Problem(text, Span(path)))
    feeds, problems = [], list[Problem]()
    for layer in layers:
        try:
            feeds.append((layer, feed(layer, path if layer in files else None)))
        except ConversionError as error:
            problems += error.problems
    if problems:
        raise ConversionError(problems)
    return Plan(tuple(feeds), {}, blobs)


def _arrays_plan(
    layers: Sequence[DataLayer],
    arrays: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, Shape],
    blobs: frozenset[str] | None,
) -> Plan:
    """Arrays for all data layers and inputs. Raises ConversionError for those that are
    missing, of another shape, or of another number of batches."""
    layers = [layer for layer in layers if layer.type != "DummyData"]
    span = Span(path) if path else None
    sizes, problems = dict[str, int](), list[Problem]()
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for layer in layers:
        for top, size in batch_sizes(layer, shapes).items():
            if blobs is not None and top not in blobs:
                continue
            array = arrays.get(top)
            if array is None:
                text = f"there is no array for blob {top!r}{closest(top, arrays)}"
            elif not array.size or not array.ndim:
                text = f"array {top!r} of shape {array.shape} holds no items"
            else:
                text = _misfit(layer, top, array.shape)
                sizes[top] = size
            problems += [Problem(text, span)] * bool(text)
    counts = {top: Fraction(len(arrays[top]), size) for top, size in sizes.items()}
    if not problems and len({*counts.values()}) > 1:
        each = (f"{top} {len(arrays[top])}, {n} a batch" for top, n in sizes.items())
        text = f"the arrays differ in length: {'; '.join(each)}"
        problems.append(Problem(text, span))
    if problems:
        raise ConversionError(problems)
    if not sizes:
        raise ConversionError(Problem("the net takes no arrays", span))
    used = {name: arrays[name] for name in sizes}
    return Plan(((layers[0], arrays_feed(layers[0].place(path), sizes)),), used, blobs)


def _misfit(layer: DataLayer, top: str, shape: Shape) -> str:
    """What is wrong with an array for MemoryData, which gives the shape; or ""."""
    if layer.type != "MemoryData" or top != layer.tops[0]:
        return ""
    wanted = tuple(layer.params.get(n, 0) for n in ("channels", "height", "width"))
    if shape[1:] == wanted:
        return ""
    return f"array {top!r} has items of {shape[1:]}, layer {layer.name!r} of {wanted}"


def _check(layer: DataLayer, shape: Shape) -> None:
    """Raises ConversionError where `transform_param` does not fit the first image."""
    (height, width, channels), transform = shape, layer.transform
    if transform.crop_size > min(height, width):
        text = f"crop_size {transform.crop_size} exceeds the image, {height} x {width}"
        raise layer.error(text, "crop_size")
    if len(transform.mean_value) not in (0, 1, channels):
        text = f"{len(transform.mean_value)} values of mean_value for {channels} "
        raise layer.error(f"{text}channels: give 1 or one each", "mean_value")
