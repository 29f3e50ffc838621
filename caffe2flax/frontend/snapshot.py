"""The net inside a weights file as a person would write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caffe2flax.frontend.message import Field, Message, Scalar

_SELECTED = ("phase", "include", "exclude")


def as_written(net: Message) -> Message:
    """The V2 net `net` without what Caffe added to it.

    A net that ran has its phase on every layer, and only layers whose rules were met:
    neither says what it can be used for.
    """
    layers = [f.value for f in net.all("layer") if isinstance(f.value, Message)]
    phases = {_first(layer, "phase") for layer in layers}
    if len(phases) == 1 and phases != {""}:
        fields = tuple(_unruled(field) for field in net.fields)
        net = replace(net, fields=fields)
    return without_splits(net)


def _unruled(field: Field) -> Field:
    layer = field.value
    if field.name != "layer" or not isinstance(layer, Message):
        return field
    kept = tuple(f for f in layer.fields if f.name not in _SELECTED)
    return replace(field, value=replace(layer, fields=kept))


def without_splits(net: Message) -> Message:
    """`net` without the Splits that Caffe inserts where a blob has several readers:
    these read the blob itself.

    One with a top that nobody reads stays: the loss of a blob hangs on it.
    """
    layers = [f.value for f in net.all("layer") if isinstance(f.value, Message)]
    read = {text for layer in layers for text in _texts(layer, "bottom")}
    gone = {
        name: bottom
        for layer in layers
        if (bottom := _inserted(layer)) and read.issuperset(_texts(layer, "top"))
        for name in _texts(layer, "top")
    }
    fields = tuple(
        _reading(field, gone)
        for field in net.fields
        if not (_tops(field) and gone.keys() >= set(_tops(field)))
    )
    return replace(net, fields=fields)


def _inserted(layer: Message) -> str:
    """The bottom of a Split that bears the names Caffe gives; else ""."""
    name, type_ = _first(layer, "name"), _first(layer, "type")
    bottoms, tops = _texts(layer, "bottom"), _texts(layer, "top")
    if type_ != "Split" or len(bottoms) != 1 or not name.endswith("_split"):
        return ""
    own = [f"{name}_{i}" for i in range(len(tops))]
    starts = name.startswith(f"{bottoms[0]}_")
    return bottoms[0] if starts and tops == own else ""


def _reading(field: Field, gone: dict[str, str]) -> Field:
    layer = field.value
    if field.name != "layer" or not isinstance(layer, Message):
        return field
    fields = tuple(
        replace(f, value=replace(f.value, text=gone[f.value.text]))
        if f.name == "bottom" and isinstance(f.value, Scalar) and f.value.text in gone
        else f
        for f in layer.fields
    )
    return replace(field, value=replace(layer, fields=fields))


def _tops(field: Field) -> Sequence[str]:
    is_layer = field.name == "layer" and isinstance(field.value, Message)
    return _texts(field.value, "top") if is_layer else ()


def _first(layer: Message, name: str) -> str:
    return next(iter(_texts(layer, name)), "")


def _texts(layer: Message | Scalar, name: str) -> list[str]:
    values = (f.value for f in layer.all(name)) if isinstance(layer, Message) else ()
    return [value.text for value in values if isinstance(value, Scalar)]
