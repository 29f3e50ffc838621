"""What each data layer is in a training script: the Python text of its source, and of
what becomes of a record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from caffe2flax.ir.call import literal
from caffe2flax.ir.field_types import known_fields
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layout import Shape
from caffe2flax.layers._fields import blob_shape, read_filler
from caffe2flax.training.data_feed import IMAGES, Feed, number
from caffe2flax.training.data_layers import DataLayer


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
    if unknown := _fields_of_forks(layer):
        text = f"{', '.join(unknown)} is not in Caffe's own {layer.type}: give the "
        raise layer.error(f"{text}arrays with --data x.npz", unknown[0])
    if layer.type not in ("HDF5Data", "DummyData") and len(layer.tops) > 2:
        text = f"Caffe's own {layer.type} has at most two tops: give the arrays with "
        raise layer.error(f"{text}--data x.npz")
    return make(layer, source)


WITHOUT_EFFECT = {
    "cache",
    "display",
    "forward_packing",
    "parser_threads",
    "precache",
    "threads",
    "use_gpu_transform",
}
"""Fields of forks that do not change what is read."""


def _fields_of_forks(layer: DataLayer) -> list[str]:
    """The fields of the layer that Caffe does not have, and that may change what it
    reads."""
    names = []
    for params in (layer.transform_params, layer.params):
        known = known_fields(params.path).keys() | WITHOUT_EFFECT
        fields = params.message.fields if params.message else ()
        names += [field.name for field in fields if field.name not in known]
    return list(dict.fromkeys(names))


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
    return _images(
        layer, layer.place(path), f"{reader}(source{color})", f"records of {backend}"
    )


def _image_list(layer: DataLayer, source: str | None) -> Feed:
    path = source or os.fspath(layer.path("source"))
    params = layer.params
    arguments = [f"folder={layer.place(layer.folder)}"]
    if root := params.get("root_folder", ""):
        arguments.append(f"root={literal(root)}")
    if params.get("new_height", 0):
        size = params.get("new_height", 0), params.get("new_width", 0)
        arguments.append(f"size={literal(size)}")
    if not params.get("is_color", True):
        arguments.append("color=False")
    text = f"ImageList(source, {', '.join(arguments)})"
    shuffle = params.get("shuffle", False)
    return _images(layer, layer.place(path), text, "images of a list", shuffle)


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
        path = layer.place(layer.path("mean_file"))
        before = (f"mean = read_mean({path})",)
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
    first = [layer.place(layer.folder), literal(root)]
    settings = ", ".join([*first, str(layer.batch), *numbers])
    before, arguments = _transformation(layer, params.get("scale", 1.0))
    arguments += [f"pad={pad}"] * bool(pad) + ["square=True"] * (mode == "square")
    image, *label = layer.tops
    call = ", ".join(["window", "rng", *arguments])
    blobs = {image: f"window_image({call})"}
    return Feed(
        layer.tops,
        layer.place(path),
        f"Windows(source, {settings})",
        "window = record[rng.integers(len(record))]",
        blobs | dict.fromkeys(label, "np.float32(window[1])"),
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
        layer.place(path),
        f"Hdf5Rows(source, {layer.place(layer.folder)}, {names})",
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


FEEDS: Mapping[str, Callable[[DataLayer, str | None], Feed]] = {
    "Data": _database,
    "ImageData": _image_list,
    "HDF5Data": _hdf5,
    "WindowData": _windows,
    "DummyData": _dummy,
}
