"""The second of Caffe's formats: `layers { name type: CONVOLUTION ... }`.

A layer holds its parameters in messages of their own, as today; its type is an enum,
and what belongs to a weight blob stands in parallel lists.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from caffe2flax.errors import Problem
from caffe2flax.frontend.message import Field, Message, Scalar

_V1_TYPES = {
    "ABSVAL": (35, "AbsVal"),
    "ACCURACY": (1, "Accuracy"),
    "ARGMAX": (30, "ArgMax"),
    "BNLL": (2, "BNLL"),
    "CONCAT": (3, "Concat"),
    "CONTRASTIVE_LOSS": (37, "ContrastiveLoss"),
    "CONVOLUTION": (4, "Convolution"),
    "DATA": (5, "Data"),
    "DECONVOLUTION": (39, "Deconvolution"),
    "DROPOUT": (6, "Dropout"),
    "DUMMY_DATA": (32, "DummyData"),
    "ELTWISE": (25, "Eltwise"),
    "EUCLIDEAN_LOSS": (7, "EuclideanLoss"),
    "EXP": (38, "Exp"),
    "FLATTEN": (8, "Flatten"),
    "HDF5_DATA": (9, "HDF5Data"),
    "HDF5_OUTPUT": (10, "HDF5Output"),
    "HINGE_LOSS": (28, "HingeLoss"),
    "IM2COL": (11, "Im2col"),
    "IMAGE_DATA": (12, "ImageData"),
    "INFOGAIN_LOSS": (13, "InfogainLoss"),
    "INNER_PRODUCT": (14, "InnerProduct"),
    "LRN": (15, "LRN"),
    "MEMORY_DATA": (29, "MemoryData"),
    "MULTINOMIAL_LOGISTIC_LOSS": (16, "MultinomialLogisticLoss"),
    "MVN": (34, "MVN"),
    "POOLING": (17, "Pooling"),
    "POWER": (26, "Power"),
    "RELU": (18, "ReLU"),
    "SIGMOID": (19, "Sigmoid"),
    "SIGMOID_CROSS_ENTROPY_LOSS": (27, "SigmoidCrossEntropyLoss"),
    "SILENCE": (36, "Silence"),
    "SLICE": (33, "Slice"),
    "SOFTMAX": (20, "Softmax"),
    "SOFTMAX_LOSS": (21, "SoftmaxWithLoss"),
    "SPLIT": (22, "Split"),
    "TANH": (23, "TanH"),
    "THRESHOLD": (31, "Threshold"),
    "WINDOW_DATA": (24, "WindowData"),
}
"""V1's enum: name -> number, and the type as V2 spells it."""

_FORKS = {
    "CROP": "Crop",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "PRELU": "PReLU",
    "RELU6": "ReLU6",
    "ROIPOOLING": "ROIPooling",
    "ROI_POOLING": "ROIPooling",
    "UPSAMPLE": "Upsample",
}
"""What forks added to the enum, each under numbers of its own."""

_V2_TYPES = {
    **_FORKS,
    **{name: type_ for name, (_, type_) in _V1_TYPES.items()},
    **{str(number): type_ for number, type_ in _V1_TYPES.values()},
}
_TRANSFORMED = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "WindowData": "window_data_param",
}
_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_SPEC = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}
"""V1's parallel lists, an element for each blob -> the field of V2's `param`."""


def type_of_enum(word: str) -> str:
    """The type that V1's enum calls `word`, a name or a number; "" for none."""
    return _V2_TYPES.get(word, "")


def from_v1(entry: Field, problems: list[Problem]) -> Field:
    """The `layers` entry as a V2 `layer`; what is wrong with it joins `problems`."""
    if not isinstance(entry.value, Message):
        problems.append(
            Problem("layers is a message: write layers { ... }", entry.span)
        )
        return entry
    fields: list[Field] = []
    specs: dict[int, list[Field]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for field in entry.value.fields:
        if field.name == "type":
            field = _type(field, problems)
        if field.name not in _SPEC:
            fields.append(field)
            continue
        _check_spec(field, problems)
        specs[counts[field.name]].append(replace(field, name=_SPEC[field.name]))
        counts[field.name] += 1
    message = replace(
        entry.value, fields=(*fields, *(wrapped("param", s) for s in specs.values()))
    )
    return Field("layer", _with_transform(message), entry.span)


def _type(field: Field, problems: list[Problem]) -> Field:
    value = field.value
    if not isinstance(value, Scalar):
        return field
    if value.kind == "string":
        text = "layers takes a type without quotes, as CONVOLUTION; "
        text += f"with type: {value.text!r} write layer {{ ... }}"
    elif (type_ := _V2_TYPES.get(value.text)) is not None:
        return replace(field, value=replace(value, kind="string", text=type_))
    elif value.text.isidentifier() and value.text != "NONE":
        # A fork's type: whoever knows the layers reports it, with all others.
        return replace(field, value=replace(value, kind="string"))
    else:
        text = f"unknown layer type {value.text} in layers {{ ... }}"
    problems.append(Problem(text, field.span))
    return field


def _check_spec(field: Field, problems: list[Problem]) -> None:
    if field.name == "param" and isinstance(field.value, Message):
        text = "param { ... } goes with layer { ... }; in layers it is a name in quotes"
        problems.append(Problem(text, field.span))


def _with_transform(layer: Message) -> Message:
    """`scale`, `mean_file`, `crop_size` and `mirror` of old data layers where they now
    belong: in `transform_param`, whose own fields of these names they replace."""
    type_ = text_of(layer, "type")
    old = next(layer.all(_TRANSFORMED.get(type_, "")), None)
    if old is None or not isinstance(old.value, Message):
        return layer
    moved = [f for f in old.value.fields if f.name in _TRANSFORM]
    if not moved:
        return layer
    names = {f.name for f in moved}
    rest = tuple(f for f in old.value.fields if f.name not in names)
    fields = [
        replace(f, value=replace(old.value, fields=rest)) if f is old else f
        for f in layer.fields
    ]
    transforms = list(layer.all("transform_param"))
    if len(transforms) == 1 and isinstance(transforms[0].value, Message):
        moved += [f for f in transforms[0].value.fields if f.name not in names]
        fields.remove(transforms[0])
    fields.append(wrapped("transform_param", moved))
    return replace(layer, fields=tuple(fields))


def wrapped(name: str, fields: list[Field]) -> Field:
    """A message field that holds `fields`, of which there is at least one."""
    span = fields[0].span
    return Field(name, Message(tuple(fields), span), span)


def text_of(message: Message, name: str) -> str:
    """The text of the first field `name`; "" where there is none."""
    found = next(message.all(name), None)
    return found.value.text if found and isinstance(found.value, Scalar) else ""
