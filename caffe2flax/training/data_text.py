"""What each data layer is in a training script: the Python text of its source, and of
what becomes of a record."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layout import Shape
from caffe2flax.layers._fields import blob_shape, read_filler
from caffe2flax.training.data_layers import DataLayer

IMAGES = (0, 2, 3, 1)
"""The axes of images as they are read: N, H, W, C."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One source of a net's batches, as text.

    path: what `source` is by default, None for none. source: the expression that reads
    `{source}`. record: names that a record is taken apart into. blobs: by top, the
    expression of its array for one item. axes: the order of Caffe's axes in it, where
    that is not Caffe's. before: lines in front, for all records.
    """

    tops: tuple[str, ...]
    path: str | None
    source: str
    record: str
    blobs: Mapping[str, str]
    batch: int
    what: str
    axes: Mapping[str, tuple[int, ...]]
    before: tuple[str, ...] = ()
    shuffle: bool = False
    joined: tuple[str, ...] = ()
    """Tops of which an item has several rows."""

    def shape(self, top: str, size: int, item: Shape) -> Shape:
        """Caffe's shape of a batch of `size` items, each of the shape `item`."""
        if top in self.joined:
            return (size * item[0], *item[1:])
        axes = self.axes.get(top, tuple(range(len(item) + 1)))
        return (size, *(item[axes.index(i) - 1] for i in range(1, len(axes))))

    def function(
        self,
        name: str,
        axes: Mapping[str, Sequence[int]],
        blobs: Collection[str] | None,
        whole: bool = True,
    ) -> str:
        """The definition of a function that returns the batches; not `whole`: without
        reading ahead. axes: by blob, the order of Caffe's axes."""
        tops = [top for top in self.tops if blobs is None or top in blobs]
        items = (f"{literal(top)}: {self._item(top, axes)}" for top in tops)
        lines = [*self.before]
        if lines:
            lines.append("")
        lines += [
            "def prepare(record: Any, rng: np.random.Generator) -> dict[str, Any]:",
            *([f"    {self.record}"] if self.record else []),
            f"    return {{{', '.join(items)}}}",
            "",
        ]
        source = self.source.format(source="source")
        call = f"batches({source}, prepare, {self.batch}, seed=seed, shuffle=shuffle)"
        joined = tuple(top for top in self.joined if top in tops)
        if joined:
            call += f".map(lambda batch: join(batch, {literal(joined)}))"
        lines.append(
            f"return read_ahead({call}, workers=workers)" if whole else f"return {call}"
        )
        parameters = (
            [] if self.path is None else [f"source: str = {literal(self.path)}"]
        )
        parameters += ["*", "seed: int = 0", f"shuffle: bool = {self.shuffle}"]
        parameters += ["workers: int = 0"] * whole
        head = f"def {name}({', '.join(parameters)}) -> Any:"
        about = f'"""Batches of {self._about(tops)}."""'
        body = "\n".join(f"    {line}" if line else "" for line in (about, *lines))
        return f"{head}\n{body}\n"

    def _about(self, tops: Sequence[str]) -> str:
        *most, last = tops
        return f"{', '.join(most)} and {last}" if most else last

    def _item(self, top: str, axes: Mapping[str, Sequence[int]]) -> str:
        """The expression of an item with its axes in the order of `axes`."""
        text = self.blobs[top]
        wanted = tuple(axes.get(top, ()))
        have = self.axes.get(top, tuple(range(len(wanted))))
        if not wanted or wanted == have:
            return text
        if wanted[0] or top in self.joined:
            raise ConversionError(f"blob {top!r}: the batch is not its first axis")
        return (
            f"{text}.transpose({', '.join(str(have.index(i) - 1) for i in wanted[1:])})"
        )


def feed(layer: DataLayer, source: str | None) -> Feed:
    """The text for a layer that reads files, from `source` in place of its own. Raises
    ConversionError for types that read what we do not, and for their settings."""
    make = FEEDS.get(layer.type)
    if make is None:
        names = ", ".join(layer.tops)
        why = {
            "Input": f"{names} is an input of the net",
            "MemoryData": f"{names} is given by the program",
        }.get(layer.type, f"{layer.type} reads its data with code of its own")
        raise layer.error(f"{why}: give the arrays with --data x.npz")
    if layer.batch < 1 and layer.type != "DummyData":
        raise layer.error(f"{layer.params.name} needs a positive batch_size")
    unknown = [*layer.transform.augmented]
    unknown += ["resize_param"] if any(layer.transform.resize) else []
    if unknown:
        text = f"{', '.join(unknown)} is not in Caffe's own {layer.type}: give the "
        raise layer.error(f"{text}arrays with --data x.npz", unknown[0])
    return make(layer, source)


def _database(layer: DataLayer, source: str | None) -> Feed:
    transform = layer.transform
    if transform.force_color and transform.force_gray:
        raise layer.error("give force_color or force_gray, not both", "force_gray")
    path = source or os.fspath(layer.path("source"))
    backend = layer.params.choice("backend", "LEVELDB", "LMDB")
    if (Path(path) / "CURRENT").exists():
        backend = "LEVELDB"
    elif os.path.isfile(path) or (Path(path) / "data.mdb").exists():
        backend = "LMDB"
    reader = "Lmdb" if backend == "LMDB" else "LevelDb"
    color = ""
    if transform.force_color or transform.force_gray:
        color = f", {transform.force_color}"
    return _images(layer, path, f"{reader}({{source}}{color})", f"records of {backend}")


def _image_list(layer: DataLayer, source: str | None) -> Feed:
    path = source or os.fspath(layer.path("source"))
    params = layer.params
    arguments = [f"folder={os.fspath(layer.folder)!r}"]
    if root := params.get("root_folder", ""):
        arguments.append(f"root={literal(root)}")
    if params.get("new_height", 0):
        size = params.get("new_height", 0), params.get("new_width", 0)
        arguments.append(f"size={literal(size)}")
    if not params.get("is_color", True):
        arguments.append("color=False")
    text = f"ImageList({{source}}, {', '.join(arguments)})"
    shuffle = params.get("shuffle", False)
    return _images(layer, path, text, "images of a list", shuffle)


def _images(
    layer: DataLayer, path: str, source: str, what: str, shuffle: bool = False
) -> Feed:
    before, arguments = _transformation(layer)
    call = f"transform({', '.join(['image', 'rng', *arguments])})"
    blobs = dict(zip(layer.tops, (call, "np.float32(label)"), strict=False))
    return Feed(
        layer.tops,
        path,
        source,
        "image, label = record" if len(layer.tops) > 1 else "image, _ = record",
        blobs,
        layer.batch,
        what,
        {layer.tops[0]: IMAGES},
        before,
        shuffle,
    )


def _transformation(
    layer: DataLayer, scale: float | None = None
) -> tuple[tuple[str, ...], list[str]]:
    """Lines in front, and arguments of `transform`."""
    transform = layer.transform
    before, arguments = tuple[str, ...](), []
    if transform.crop_size:
        arguments.append(f"crop={transform.crop_size}")
        if layer.phase == "TEST" and scale is None:
            arguments.append("middle=True")
    if transform.mean_file:
        path = os.fspath(layer.path("mean_file"))
        before = (f"mean = read_mean({literal(path)})",)
    elif transform.mean_value:
        values = ", ".join(map(number, transform.mean_value))
        before = (f"mean = np.array([{values}], np.float32)",)
    if before:
        arguments.append("mean=mean")
    if transform.mirror:
        arguments.append("mirror=True")
    factor = transform.scale if scale is None else scale
    if factor != 1:
        arguments.append(f"scale={number(factor)}")
    return before, arguments


def _windows(layer: DataLayer, source: str | None) -> Feed:
    params = layer.params
    path = source or os.fspath(layer.path("source"))
    root, pad = params.get("root_folder", ""), params.get("context_pad", 0)
    mode = params.get("crop_mode", "warp")
    crop = layer.transform.crop_size
    if mode not in ("warp", "square"):
        raise layer.error(f"crop_mode is warp or square, not {mode!r}", "crop_mode")
    if 2 * pad >= crop:
        raise layer.error(f"context_pad {pad} leaves nothing of {crop}", "context_pad")
    names = ("fg_fraction", "fg_threshold", "bg_threshold")
    defaults = (0.25, 0.5, 0.5)
    numbers = [number(params.get(n, d)) for n, d in zip(names, defaults, strict=True)]
    first = [os.fspath(layer.folder), root]
    settings = ", ".join([*map(literal, first), str(layer.batch), *numbers])
    before, arguments = _transformation(layer, params.get("scale", 1.0))
    arguments += [f"pad={pad}"] * bool(pad) + ["square=True"] * (mode == "square")
    image, *label = layer.tops
    call = ", ".join(["window", "rng", *arguments])
    return Feed(
        layer.tops,
        path,
        f"Windows({{source}}, {settings})",
        "window = record[rng.integers(len(record))]",
        {image: f"window_image({call})"}
        | dict.fromkeys(label, "np.float32(window[1])"),
        layer.batch,
        "windows of images",
        {image: IMAGES},
        before,
    )


def _hdf5(layer: DataLayer, source: str | None) -> Feed:
    path = source or os.fspath(layer.path("source"))
    names = literal(layer.tops)
    return Feed(
        layer.tops,
        path,
        f"Hdf5Rows({{source}}, {os.fspath(layer.folder)!r}, {names})",
        "",
        {top: f"record[{literal(top)}]" for top in layer.tops},
        layer.batch,
        "rows of HDF5 files",
        {},
        shuffle=layer.params.get("shuffle", False),
    )


def _dummy(layer: DataLayer, source: str | None) -> Feed:
    params, tops = layer.params, len(layer.tops)
    shapes = [blob_shape(shape) for shape in params.subs("shape")]
    if not shapes:
        names = ("num", "channels", "height", "width")
        columns = [params.all(name, int) for name in names]
        columns = [(c * tops)[:tops] for c in columns]
        shapes = list(zip(*columns, strict=True))
    fillers = [read_filler(given) for given in params.subs("data_filler")] or [Filler()]
    shapes, fillers = (shapes * tops)[:tops], (fillers * tops)[:tops]
    blobs = {
        top: _drawn(layer, filler, shape)
        for top, filler, shape in zip(layer.tops, fillers, shapes, strict=True)
    }
    # One item is a whole batch, as tops may differ in their first axis.
    return Feed(
        layer.tops, None, "range(1)", "", blobs, 1, "made up", {}, joined=layer.tops
    )


def _drawn(layer: DataLayer, filler: Filler, shape: Shape) -> str:
    """An array as a filler draws it."""
    filler.known()
    match filler.type:
        case "constant":
            return f"np.full({literal(shape)}, {number(filler.value)}, np.float32)"
        case "uniform":
            low, high = number(filler.min), number(filler.max)
            return f"rng.uniform({low}, {high}, {literal(shape)}).astype(np.float32)"
        case "gaussian" if filler.sparse < 0:
            mean, std = number(filler.mean), number(filler.std)
            return f"rng.normal({mean}, {std}, {literal(shape)}).astype(np.float32)"
    text = f"DummyData of filler {filler.type!r}: constant, uniform or gaussian"
    raise layer.error(text, "data_filler")


def arrays_feed(path: str, tops: Mapping[str, int]) -> Feed:
    """The text for arrays by blob, with the batch size of each. They are taken as they
    are: `transform_param` is for images."""
    size = gcd(*tops.values())
    rows = {top: batch // size for top, batch in tops.items() if batch != size}
    given = f", rows={rows!r}" if rows else ""
    return Feed(
        tuple(tops),
        path,
        f"Arrays(load_arrays({{source}}, {literal(tuple(tops))}){given})",
        "",
        {top: f"record[{literal(top)}]" for top in tops},
        size,
        "items of arrays",
        {},
        joined=tuple(rows),
    )


def number(value: float) -> str:
    """The shortest literal of the same float32."""
    stored = np.float32(value)
    return repr(float(str(stored))) if np.isfinite(stored) else f'float("{stored}")'


FEEDS: Mapping[str, Callable[[DataLayer, str | None], Feed]] = {
    "Data": _database,
    "ImageData": _image_list,
    "HDF5Data": _hdf5,
    "WindowData": _windows,
    "DummyData": _dummy,
}
