"""The first of Caffe's formats: `layers { layer { name type ... } bottom top }`.

All parameters of a layer stand beside its name, and padding is a layer of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from caffe2flax.errors import Problem, closest
from caffe2flax.frontend.message import Field, Message, Scalar

_DENSE = {
    "num_output": "num_output",
    "biasterm": "bias_term",
    "weight_filler": "weight_filler",
    "bias_filler": "bias_filler",
}
_WINDOW = {"pad": "pad", "kernelsize": "kernel_size", "stride": "stride"}
_RECORDS = {"source": "source", "batchsize": "batch_size"}

_TYPES: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "accuracy": ("ACCURACY", "", {}),
    "bnll": ("BNLL", "", {}),
    "concat": ("CONCAT", "concat_param", {"concat_dim": "concat_dim"}),
    "conv": (
        "CONVOLUTION",
        "convolution_param",
        _DENSE | _WINDOW | {"group": "group"},
    ),
    "data": ("DATA", "data_param", _RECORDS | {"rand_skip": "rand_skip"}),
    "dropout": ("DROPOUT", "dropout_param", {"dropout_ratio": "dropout_ratio"}),
    "euclidean_loss": ("EUCLIDEAN_LOSS", "", {}),
    "flatten": ("FLATTEN", "", {}),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param", _RECORDS),
    "hdf5_output": ("HDF5_OUTPUT", "", {}),
    "im2col": ("IM2COL", "", {}),
    "images": (
        "IMAGE_DATA",
        "image_data_param",
        _RECORDS
        | {"rand_skip": "rand_skip", "shuffle_images": "shuffle"}
        | {"new_height": "new_height", "new_width": "new_width"},
    ),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param", {"source": "source"}),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param", _DENSE),
    "lrn": (
        "LRN",
        "lrn_param",
        {"local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k"},
    ),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", "", {}),
    "pool": ("POOLING", "pooling_param", _WINDOW | {"pool": "pool"}),
    "relu": ("RELU", "", {}),
    "sigmoid": ("SIGMOID", "", {}),
    "softmax": ("SOFTMAX", "", {}),
    "softmax_loss": ("SOFTMAX_LOSS", "", {}),
    "split": ("SPLIT", "", {}),
    "tanh": ("TANH", "", {}),
    "window_data": (
        "WINDOW_DATA",
        "window_data_param",
        _RECORDS
        | {"det_fg_threshold": "fg_threshold", "det_bg_threshold": "bg_threshold"}
        | {"det_fg_fraction": "fg_fraction", "det_context_pad": "context_pad"}
        | {"det_crop_mode": "crop_mode"},
    ),
}
"""Type -> its name in V1, the message of its parameters, old name -> name in there."""

_TRANSFORM = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}
_KEPT = ("name", "blobs", "blobs_lr", "weight_decay")
_FIELDS = {
    "type": None,
    "hdf5_output_param": None,
    **dict.fromkeys([*_KEPT, *_TRANSFORM]),
    **dict.fromkeys(name for _, _, names in _TYPES.values() for name in names),
}


def is_v0(net: Message) -> bool:
    """Whether any `layers` entry holds a `layer`."""
    return any(
        isinstance(f.value, Message) and f.value.has("layer") for f in net.all("layers")
    )


def from_v0(net: Message) -> tuple[Message, tuple[Problem, ...]]:
    """The net with V1 entries for its V0 ones, and what is wrong with them.

    Padding layers become the `pad` of the convolution or pooling that reads them.
    """
    problems: list[Problem] = []
    entries = [f for f in net.all("layers") if _is_entry(f, problems)]
    upgraded = iter([_layer(f, problems) for f in _without_padding(entries, problems)])
    fields = [f for f in net.fields if f.name != "layers"]
    return replace(net, fields=(*fields, *upgraded)), tuple(problems)


def _is_entry(entry: Field, problems: list[Problem]) -> bool:
    inner = list(entry.value.all("layer")) if isinstance(entry.value, Message) else []
    if len(inner) == 1 and isinstance(inner[0].value, Message):
        return True
    text = "layers needs one layer { ... }, as the other layers of this V0 net have"
    problems.append(Problem(text, entry.span))
    return False


def _without_padding(entries: list[Field], problems: list[Problem]) -> list[Field]:
    paddings: dict[str, Field | None] = {}
    kept: list[Field] = []
    for entry in entries:
        sources = map(paddings.get, _texts(entry, "bottom"))
        source = next(filter(None, sources), None)
        is_padding = _type(entry) == "padding"
        made = entry if is_padding else None
        paddings.update(dict.fromkeys(_texts(entry, "top"), made))
        if source is not None:
            entry = _padded(entry, source, problems)
        if is_padding:
            _check_padding(entry, problems)
        else:
            kept.append(entry)
    return kept


def _check_padding(entry: Field, problems: list[Problem]) -> None:
    for name in ("bottom", "top"):
        if len(_texts(entry, name)) != 1:
            text = f"a padding layer has one {name}"
            problems.append(Problem(text, entry.span))
    for field in _inner(entry).fields:
        if field.name not in ("name", "type", "pad"):
            text = f"unknown field {field.name} in a padding layer"
            problems.append(Problem(text, field.span))


def _padded(entry: Field, padding: Field, problems: list[Problem]) -> Field:
    """`entry` reading what `padding` reads; Caffe puts the pad over its own."""
    type_ = _type(entry)
    if type_ not in ("conv", "pool") or len(_texts(entry, "bottom")) != 1:
        text = f"layer of type {type_} reads a padding layer; only conv and pool can"
        if type_ in ("conv", "pool"):
            text = f"layer of type {type_} reads a padding layer and other blobs"
        problems.append(Problem(text, entry.span))
        return entry
    pads = tuple(_inner(padding).all("pad"))
    if not pads:
        span = padding.span
        pads = (Field("pad", Scalar("number", "0", span), span),)
    inner = _inner(entry)
    own = tuple(f for f in inner.fields if f.name != "pad")
    source = next(iter(_message(padding).all("bottom")), None)
    fields = [
        Field("layer", replace(inner, fields=(*own, *pads)), f.span)
        if f.name == "layer"
        else (source or f)
        if f.name == "bottom"
        else f
        for f in _message(entry).fields
    ]
    return replace(entry, value=replace(_message(entry), fields=tuple(fields)))


def _layer(entry: Field, problems: list[Problem]) -> Field:
    outer, inner = _message(entry), _inner(entry)
    blobs = [f for f in outer.fields if f.name in ("bottom", "top")]
    for field in outer.fields:
        if field.name not in ("bottom", "top", "layer"):
            text = f"{field.name} has no effect beside layer {{ ... }}; V0 nets lack it"
            problems.append(Problem(text, field.span))
    types = list(inner.all("type"))
    old = _type(entry)
    if types and old not in _TYPES:
        hint = closest(old, _TYPES, problems)
        text = f"unknown layer type {old!r} in a V0 net{hint}"
        problems.append(Problem(text, types[0].span))
        return entry
    for field in types:
        if not isinstance(field.value, Scalar) or field.value.kind != "string":
            problems.append(Problem("type is a string in quotes", field.span))
    type_, message, names = _TYPES.get(old, ("", "", {}))
    own: list[Field] = []
    transform: list[Field] = []
    kept = [replace(f, value=Scalar("word", type_, f.value.span)) for f in types]
    for field in inner.fields:
        if field.name in names:
            own.append(replace(field, name=names[field.name]))
        elif field.name in _TRANSFORM:
            transform.append(replace(field, name=_TRANSFORM[field.name]))
        elif field.name in _KEPT or (field.name, old) == _HDF5:
            kept.append(field)
        elif field.name != "type":
            problems.append(_misplaced(field, old, problems))
    kept.sort(key=lambda field: field.name != "name")
    kept += [*blobs, *_wrap(message, own), *_wrap("transform_param", transform)]
    return replace(entry, value=replace(outer, fields=tuple(kept)))


_HDF5 = ("hdf5_output_param", "hdf5_output")


def _misplaced(field: Field, type_: str, problems: Sequence[Problem]) -> Problem:
    hint = closest(field.name, _FIELDS, problems)
    text = f"unknown field {field.name} in a V0 layer{hint}"
    if field.name in _FIELDS:
        text = f"unknown field {field.name} in a V0 layer of type {type_}"
    return Problem(text, field.span)


def _wrap(name: str, fields: list[Field]) -> list[Field]:
    if not fields:
        return []
    span = fields[0].span
    return [Field(name, Message(tuple(fields), span), span)]


def _message(field: Field) -> Message:
    assert isinstance(field.value, Message)
    return field.value


def _inner(entry: Field) -> Message:
    return _message(next(_message(entry).all("layer")))


def _type(entry: Field) -> str:
    found = next(_inner(entry).all("type"), None)
    if found is None or not isinstance(found.value, Scalar):
        return ""
    return found.value.text


def _texts(entry: Field, name: str) -> list[str]:
    values = (f.value for f in _message(entry).all(name))
    return [value.text for value in values if isinstance(value, Scalar)]
