"""ReLUs inside of other layers, as Intel's fork writes them, as layers of their own."""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.frontend.message import Field, Message, Scalar

FUSED = {"Convolution": "convolution_param", "BatchNorm": "batch_norm_param"}
"""The types that may hold a ReLU, and the message with its flag `relu`."""


def split_relus(net: Message) -> tuple[Message, tuple[str, ...]]:
    """The V2 net `net` with a ReLU behind each layer that has `relu: true`, and notes.

    Its negative_slope is that of the layer's `relu_param`, or stands beside the flag.
    """
    fields: list[Field] = []
    notes = []
    for field in net.fields:
        found = _split(field)
        fields += found
        if len(found) > 1:
            text = "the ReLU inside of this layer is taken as a layer behind it"
            notes.append(f"{field.span}: {text}")
    return replace(net, fields=tuple(fields)), tuple(notes)


def _split(field: Field) -> list[Field]:
    layer = field.value
    if field.name != "layer" or not isinstance(layer, Message):
        return [field]
    message = FUSED.get(_text(layer, "type"))
    own = next(layer.all(message), None) if message else None
    tops = list(layer.all("top"))
    if own is None or not isinstance(own.value, Message) or len(tops) != 1:
        return [field]
    flag = next(own.value.all("relu"), None)
    if flag is None or not isinstance(flag.value, Scalar):
        return [field]
    if flag.value.text not in ("true", "false"):
        return [field]
    fused = flag.value.text == "true"
    taken = ("relu", "negative_slope") if fused else ("relu",)
    slopes = [f for f in own.value.fields if fused and f.name == "negative_slope"]
    given = next(layer.all("relu_param"), None) if fused else None
    if given is not None and isinstance(given.value, Message):
        slopes += given.value.all("negative_slope")
    kept = tuple(f for f in own.value.fields if f.name not in taken)
    inner = replace(own, value=replace(own.value, fields=kept))
    rest = tuple(inner if f is own else f for f in layer.fields if f is not given)
    plain = replace(field, value=replace(layer, fields=rest))
    return [plain, _relu(field, layer, tops[0], slopes)] if fused else [plain]


def _relu(field: Field, layer: Message, top: Field, slopes: list[Field]) -> Field:
    """A ReLU in place of the layer's top, in the same phases and stages."""
    span = field.span
    name = Field("name", Scalar("string", f"{_text(layer, 'name')}/relu", span), span)
    type_ = Field("type", Scalar("string", "ReLU", span), span)
    rules = (f for f in layer.fields if f.name in ("include", "exclude"))
    own = Field("relu_param", Message(tuple(slopes), span), span)
    bottom = replace(top, name="bottom")
    return Field("layer", Message((name, type_, bottom, top, own, *rules), span), span)


def _text(layer: Message, name: str) -> str:
    value = next((f.value for f in layer.all(name)), None)
    return value.text if isinstance(value, Scalar) else ""
