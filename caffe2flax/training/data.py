"""Batches as the data layers of a net give them: a grain dataset, and the text of it in
a training script."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe2flax.codegen.library import loaded_names
from caffe2flax.errors import ConversionError, Problem, Span, closest, optional
from caffe2flax.files.npz import read_npz
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.source import PathOrText
from caffe2flax.ir.layout import Layout, Shape
from caffe2flax.ir.syntax import parse_module
from caffe2flax.training.data_layers import DataLayer, batch_sizes, data_layers
from caffe2flax.training.data_text import Feed, arrays_feed, feed

if TYPE_CHECKING:
    import grain
    from numpy.typing import NDArray

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
NEEDS = {
    "batches": ("a dataset", "grain", "train"),
    "hdf5_source": ("HDF5Data", "h5py", "data"),
    "lmdb_source": ("an LMDB", "lmdb", "data"),
}
"""By file of the library: what needs which package, of which extra; others need
Pillow."""


def data(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: Override = None,
    *,
    level: int = 0,
    stages: Sequence[str] | str = (),
    shuffle: bool | None = None,
    seed: int = 0,
    axes: Mapping[str, Sequence[int]] | None = None,
    share: tuple[int, int] | None = None,
    threads: int = 4,
    workers: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> grain.IterDataset[dict[str, NDArray[np.float32]]]:
    """Batches of the data layers of a net, without an end: float32 arrays by blob,
    images channels last (N, H, W, C), labels (N,), as generated modules take them.

    The order is that of the database or list, unless a layer or `shuffle` says
    otherwise; the record behind the last is the first. The state of the dataset's
    iterator is the place in the data.

    source: what to read in place of what the net names: a database or list, or arrays
    by blob in Caffe's axis order, as a dict or an .npz, for data and Input layers; they
    are taken as they are, without `transform_param`. axes: by blob, which of Caffe's
    axes stands at each place, as (0, 2, 3, 1), the default where there are four. share:
    (index, count) of this process; by default as JAX has it. threads, workers: threads
    and processes that prepare batches. input_shapes: by blob, where a layer does not
    say its batch size. Raises ConversionError, in iterating ValueError with the file
    and the record.
    """
    plan = _plan(prototxt, phase, source, level, stages, input_shapes)
    text = plan.text("net_batches", axes)
    with plan.blamed():
        call = plan.function(
            text,
            "net_batches",
            batches={"share": share} if share else {},
            read_ahead={"threads": threads},
        )
        options = {} if shuffle is None else {"shuffle": shuffle}
        return call(seed=seed, workers=workers, **options)


def data_shapes(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: Override = None,
    *,
    level: int = 0,
    stages: Sequence[str] | str = (),
    folder: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Shape]:
    """The shapes of a batch by blob, in Caffe's axis order, from the first record of
    each source. Arguments and errors are those of `data`; folder: where relative paths
    of a Message or a text begin."""
    return _plan(prototxt, phase, source, level, stages, input_shapes, folder).shapes()


def data_source(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: Override = None,
    *,
    name: str = "train_batches",
    level: int = 0,
    stages: Sequence[str] | str = (),
    axes: Mapping[str, Sequence[int]] | None = None,
    blobs: Collection[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """The definition of a function that returns these batches, for a training script:
    `def train_batches(source=..., *, seed=0, shuffle=False, workers=0)`.

    It calls functions and classes of `caffe2flax.training.library`. blobs: those that
    are wanted, by default all. Other arguments and errors: see `data`, `data_shapes`.
    """
    plan = _plan(prototxt, phase, source, level, stages, input_shapes, folder, blobs)
    return plan.text(name, axes)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What feeds a net: each layer, or all as one, and its text."""

    feeds: tuple[tuple[DataLayer, Feed], ...]
    arrays: Mapping[str, Any]
    """Given by blob, in place of files."""
    blobs: Collection[str] | None = None

    def text(self, name: str, axes: Mapping[str, Sequence[int]] | None) -> str:
        """The function's text. Raises ConversionError."""
        if axes is None or any(f.axes.keys() - axes.keys() for _, f in self.feeds):
            shapes = self.shapes()
            default = {
                b: Layout.channels_last(4).axes for b in shapes if len(shapes[b]) == 4
            }
            axes = default | dict(axes or {})
        feeds = [f for _, f in self.feeds]
        return functions(feeds, name, axes, self.blobs)

    def shapes(self) -> dict[str, Shape]:
        found: dict[str, Shape] = {}
        for layer, each in self.feeds:

            def first(source: Any, prepare: Any, size: int, **_: Any) -> Any:
                if not len(source):
                    raise ValueError("there is no data")
                record = source[0]
                _check(layer, record)
                item = prepare(record, np.random.default_rng(0))
                return {
                    blob: each.shape(blob, size, x.shape) for blob, x in item.items()
                }

            with self.blamed(layer):
                text = functions([each], "peek", {}, self.blobs)
                names = {
                    "batches": first,
                    "read_ahead": lambda found, **_: found,
                    "join": lambda found, _: found,
                }
                found |= self.function(text, "peek", **names)()
        return found

    def function(self, text: str, name: str, **changed: Any) -> Callable[..., Any]:
        """The function that a text defines; `changed`: keywords for what it calls, or
        what it calls instead. Raises ConversionError where a package is missing."""
        tree = parse_module(text)
        known: dict[str, Any] = {"Any": Any, "np": np}
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
    def blamed(self, layer: DataLayer | None = None) -> Iterator[None]:
        """Makes what the readers raise, which may be anything, a ConversionError."""
        layer = layer or self.feeds[0][0]
        try:
            yield
        except ConversionError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            cause = error if isinstance(error, ImportError) else error.__cause__
            if isinstance(cause, ImportError):
                package = (cause.name or "").partition(".")[0]
                package = {"PIL": "pillow", "plyvel_next": "plyvel"}.get(
                    package, package
                )
                text = f"{layer.type} needs {package}: pip install 'caffe2flax[data]'"
                raise ConversionError(text) from None
            text = (
                f"{error}"
                if isinstance(error, ValueError)
                else f"cannot be read: {error}"
            )
            raise layer.error(text, "source") from error


def functions(
    feeds: Sequence[Feed],
    name: str,
    axes: Mapping[str, Sequence[int]],
    blobs: Collection[str] | None,
) -> str:
    """The text of a function for all feeds; several have a function each."""
    if len(feeds) == 1:
        return feeds[0].function(name, axes, blobs)
    parts = [
        f.function(f"{name}_{i}", axes, blobs, whole=False)
        for i, f in enumerate(feeds, 1)
    ]
    shuffled = any(f.shuffle for f in feeds)
    calls = ", ".join(
        f"{name}_{i}(seed=seed, shuffle=shuffle)" for i in range(1, len(feeds) + 1)
    )
    parts.append(
        f"def {name}(*, seed: int = 0, shuffle: bool = {shuffled}, workers: int = 0) -> Any:\n"
        f'    """The batches of all data layers."""\n'
        f"    return read_ahead(merge({calls}), workers=workers)\n"
    )
    return "\n\n".join(parts)


def _plan(
    prototxt: PathOrText | Message,
    phase: str,
    source: Override,
    level: int,
    stages: Sequence[str] | str,
    input_shapes: Mapping[str, Sequence[int]] | None,
    folder: str | os.PathLike[str] | None = None,
    blobs: Collection[str] | None = None,
) -> _Plan:
    layers = data_layers(prototxt, phase, level=level, stages=stages, folder=folder)
    if blobs is not None:
        layers = tuple(
            x for x in layers if x.type != "DummyData" and {*x.tops} & {*blobs}
        )
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
    return _Plan(tuple(feeds), {}, blobs)


def _arrays_plan(
    layers: Sequence[DataLayer],
    arrays: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, Shape],
    blobs: Collection[str] | None,
) -> _Plan:
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
        listed = ", ".join(
            f"{top} {len(arrays[top])} items, {sizes[top]} a batch" for top in sizes
        )
        problems.append(Problem(f"the arrays differ in length: {listed}", span))
    if problems:
        raise ConversionError(problems)
    if not sizes:
        raise ConversionError(Problem("the net takes no arrays", span))
    used = {name: arrays[name] for name in sizes}
    return _Plan(((layers[0], arrays_feed(path, sizes)),), used, blobs)


def _misfit(layer: DataLayer, top: str, shape: Shape) -> str:
    """What is wrong with an array for MemoryData, which gives the shape; or ""."""
    if layer.type != "MemoryData" or top != layer.tops[0]:
        return ""
    wanted = tuple(layer.params.get(n, 0) for n in ("channels", "height", "width"))
    if shape[1:] == wanted:
        return ""
    return f"array {top!r} has items of {shape[1:]}, layer {layer.name!r} of {wanted}"


def _check(layer: DataLayer, record: Any) -> None:
    """Raises ConversionError where `transform_param` does not fit the first image."""
    if layer.type not in ("Data", "ImageData"):
        return
    (height, width, channels), transform = record[0].shape, layer.transform
    if transform.crop_size > min(height, width):
        text = f"crop_size {transform.crop_size} exceeds the image, {height} x {width}"
        raise layer.error(text, "crop_size")
    if len(transform.mean_value) not in (0, 1, channels):
        text = (
            f"{len(transform.mean_value)} values of mean_value for {channels} channels"
        )
        raise layer.error(f"{text}: give 1 or one each", "mean_value")
