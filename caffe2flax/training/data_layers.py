"""The data layers of a net: which there are, and what their fields say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.select import select
from caffe2flax.frontend.source import PathOrText, at_hand, is_text, read_net
from caffe2flax.frontend.upgrade import inline_net, upgrade
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.build import build
from caffe2flax.ir.call import literal
from caffe2flax.ir.common_fields import read_transform
from caffe2flax.ir.graph import CallerShapes
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import LAYERS
from caffe2flax.ir.transform import Transform
from caffe2flax.layers import register_all
from caffe2flax.layers._fields import blob_shape
from caffe2flax.options import one_or_more

PARAMETERS = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "HDF5Data": "hdf5_data_param",
    "WindowData": "window_data_param",
    "MemoryData": "memory_data_param",
    "DummyData": "dummy_data_param",
    "Input": "input_param",
}
"""The types of Caffe 1.0, and where their fields stand."""


@dataclass(frozen=True, slots=True)
class DataLayer:
    """A layer that gives a net its data.

    params: the message of its own fields. transform: `transform_param`, which is
    `transform_params`; without one nothing is changed. folder: where relative paths
    begin. batch: items of a batch, 0 where the layer does not say.
    """

    name: str
    type: str
    tops: tuple[str, ...]
    phase: str
    params: Params
    transform: Transform
    transform_params: Params
    folder: Path
    batch: int
    span: Span
    script: Path | None = None
    """The folder of the script that is written."""

    def place(self, path: str | os.PathLike[str]) -> str:
        """The expression of a path. In a script, paths below the current folder are
        relative to the script where it is there, too, so that both can be moved."""
        if self.script is None:
            return literal(os.fspath(path))
        here, whole, script = map(os.path.realpath, (".", path, self.script))
        if not all(Path(each).is_relative_to(here) for each in (whole, script)):
            return literal(os.path.abspath(path))
        relative = Path(os.path.relpath(whole, script)).as_posix()
        return f"HERE + {literal(f'/{relative}')}"

    def path(self, field: str) -> Path:
        """The file or folder that a field names, beside the prototxt or else where the
        program runs. Raises ConversionError where there is none."""
        params = self.params if self.params.has(field) else self.transform_params
        named = params.get(field, "")
        if not named:
            text = f"{params.name} needs {field}"
            raise ConversionError(Problem(text, params.span() or self.span))
        for path in (self.folder / named, Path(named)):
            if path.exists():
                return path
        where = f"neither in {os.fspath(self.folder)!r}, where the net is, nor in '.'"
        text = f"there is no {named!r}, {where}; --data PATH names another"
        raise ConversionError(Problem(text, params.span(field)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What its fields say that has no effect."""
        found = []
        if self.params.get("rand_skip", 0):
            found.append("rand_skip has no effect: data begin with the first record")
        if self.type == "WindowData" and self.transform.scale != 1:
            text = "scale of transform_param has no effect in WindowData, as in Caffe: "
            found.append(f"{text}that of window_data_param has")
        return tuple(f"{self.span}: {self.name!r}: {text}" for text in found)

    def error(self, message: str, field: str | None = None) -> ConversionError:
        """An error at a field, or at the layer."""
        for params in (self.params, self.transform_params):
            if field and params.has(field):
                return ConversionError(Problem(message, params.span(field)))
        return ConversionError(Problem(message, self.span))


def data_layers(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    *,
    level: int = 0,
    stages: Sequence[str] | str = (),
    folder: str | os.PathLike[str] | None = None,
    script: Path | None = None,
) -> tuple[DataLayer, ...]:
    """The layers that give the net of a phase its data, Input layers among them.

    folder: where relative paths begin, by default that of the prototxt. script: the
    folder of the script that is written. Raises ConversionError with all problems of
    these layers.
    """
    register_all()
    if not isinstance(prototxt, Message):
        if folder is None and not is_text(prototxt):
            folder = Path(prototxt).parent
        prototxt, _ = read_net(at_hand(prototxt))
    net = upgrade(inline_net(prototxt, phase=phase) or prototxt)
    net = select(net, phase=phase, level=level, stages=one_or_more(stages))
    fields = tuple(f for f in net.fields if f.name == "layer" and _gives(f.value))
    net = replace(net, fields=fields)
    if not fields:
        text = f"the net has no data layer and no input in phase {phase}"
        raise ConversionError(Problem(text, net.span))
    build(net, phase=phase, caller_shapes=CallerShapes({}, {}, {}))  # all its checks
    found = [Params("the net", net, phase=phase).subs("layer")]
    return tuple(_read(layer, phase, Path(folder or "."), script) for layer in found[0])


def _gives(layer: object) -> bool:
    if not isinstance(layer, Message) or layer.has("bottom") or not layer.has("top"):
        return False
    type_ = Params("layer", layer).get("type", "")
    if type_ in PARAMETERS or type_ not in LAYERS:
        return True
    return type_ == "Python" or issubclass(LAYERS[type_], Source)


def _read(layer: Params, phase: str, folder: Path, script: Path | None) -> DataLayer:
    type_ = layer.get("type", "")
    params = layer.sub(PARAMETERS.get(type_) or _with_batch_size(layer))
    tops = layer.all("top", str)
    return DataLayer(
        layer.get("name", ""),
        type_,
        tops,
        layer.choice("phase", "TRAIN", "TEST", default=phase),
        params,
        read_transform(layer) or Transform(),
        layer.sub("transform_param"),
        folder,
        params.get("batch_size", 1 if type_ == "ImageData" else 0),
        layer.span() or Span(""),
        script,
    )


def _with_batch_size(layer: Params) -> str:
    """Which message of a layer of a fork has its batch size; "" where none has."""
    fields = layer.message.fields if layer.message else ()
    has = (f.name for f in fields if isinstance(f.value, Message))
    return next((n for n in has if layer.sub(n).has("batch_size")), "")


def batch_sizes(layer: DataLayer, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Items of a batch for each top: as the layer says, or `shapes` for tops of which
    it does not. Raises ConversionError where neither does."""
    given = [blob_shape(shape) for shape in layer.params.subs("shape")]
    if layer.type == "Input" and given:
        own = (given * len(layer.tops))[: len(layer.tops)]
        sizes = {top: shape[0] for top, shape in zip(layer.tops, own, strict=True)}
    else:
        sizes = dict.fromkeys(layer.tops, layer.batch)
    sizes |= {top: shapes[top][0] for top in layer.tops if shapes.get(top)}
    for top, size in sizes.items():
        if size < 1:
            text = f"the batch size of blob {top!r} is not known: give "
            raise layer.error(f"{text}--input-shape {top}=N,...", "batch_size")
    return sizes
