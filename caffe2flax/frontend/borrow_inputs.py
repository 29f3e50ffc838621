"""Inputs that a net lacks in a phase, taken from the layer that makes them in another.

A net to be trained often reads its data in TRAIN alone. Caffe aborts on it in TEST,
where one wants the trained net to work: its input is what the data layer of TRAIN
provides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from caffe2flax.errors import Span
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.select import admits


def borrow_inputs(
    net: Message, *, phase: str = "TEST", level: int = 0, stages: Sequence[str] = ()
) -> tuple[Message, tuple[str, ...]]:
    """The V2 net `net`, in which the rules of some layers are gone, and notes on these.

    They are layers without bottoms that the rules leave out and that make a blob that
    the others read and none of them makes; those of the other phase come before those
    of other stages and levels, and of these stages those for tests first, or in TRAIN
    those for training. What else they make goes nowhere.
    """
    layers = [f for f in net.fields if isinstance(f.value, Message)]
    layers = [f for f in layers if f.name == "layer"]
    other = "TRAIN" if phase == "TEST" else "TEST"
    present = admits(net, layers, phase=phase, level=level, stages=stages)
    there = [f for f, stays in zip(layers, present, strict=True) if stays]
    made = {blob for f in there for blob in _blobs(f, "top")}
    wanted = dict.fromkeys(b for b in _unmade(there) if b not in made)
    if not wanted:
        return net, ()
    swapped = admits(net, layers, phase=other, level=level, stages=stages)
    ranked = sorted(
        (not near, not _is_for(layers[number], phase), number)
        for number, (near, stays) in enumerate(zip(swapped, present, strict=True))
        if not stays and not _blobs(layers[number], "bottom")
    )
    borrowed: dict[int, Field] = {}
    silenced: list[Field] = []
    notes = []
    for *_, number in ranked:
        tops = _blobs(layers[number], "top")
        used = [blob for blob in tops if blob in wanted]
        if not used:
            continue
        unread = [blob for blob in tops if blob not in wanted]
        borrowed[id(layers[number])] = _without_rules(layers[number], unread)
        silenced += [_silence(blob, layers[number].span) for blob in unread]
        made.update(tops)
        for blob in used:
            del wanted[blob]
        notes.append(
            f"{layers[number].span}: no layer of {phase} makes {', '.join(used)}, on "
            "which Caffe aborts; taken as an input, as this layer makes it, which "
            f"{phase} leaves out"
        )
    fields = tuple(borrowed.get(id(field), field) for field in net.fields)
    return replace(net, fields=(*fields, *silenced)), tuple(notes)


def declare_inputs(net: Message, blobs: Iterable[str]) -> Message:
    """The V2 net `net` with an Input layer for each of `blobs` that its layers read and
    none of them makes."""
    layers = [f for f in net.fields if isinstance(f.value, Message)]
    layers = [f for f in layers if f.name == "layer"]
    made = {blob for layer in layers for blob in _blobs(layer, "top")}
    lacking = {blob for blob in _unmade(layers) if blob not in made}
    inputs = [_layer("Input", "top", b, b, net.span) for b in blobs if b in lacking]
    return replace(net, fields=(*inputs, *net.fields))


def _is_for(layer: Field, phase: str) -> bool:
    """Whether the stages of a layer's rules are called as those for tests are, or as
    those for training."""
    assert isinstance(layer.value, Message)
    rules = [f.value for f in layer.value.all("include")]
    values = [f.value for r in rules if isinstance(r, Message) for f in r.all("stage")]
    trains = any("train" in v.text.lower() for v in values if isinstance(v, Scalar))
    return trains is (phase == "TRAIN")


def _unmade(layers: Iterable[Field]) -> Iterable[str]:
    """What the layers read before one of them makes it."""
    made: set[str] = set()
    for field in layers:
        yield from (b for b in _blobs(field, "bottom") if b not in made)
        made.update(_blobs(field, "top"))


def _blobs(layer: Field, name: str) -> list[str]:
    assert isinstance(layer.value, Message)
    values = (f.value for f in layer.value.all(name))
    return [value.text for value in values if isinstance(value, Scalar)]


def _without_rules(layer: Field, unused: Iterable[str]) -> Field:
    """The layer for any phase, its tops among `unused` under other names."""
    assert isinstance(layer.value, Message)
    names = {blob: _aside(blob) for blob in unused}
    fields = (
        _renamed(f, names) if f.name == "top" else f
        for f in layer.value.fields
        if f.name not in ("include", "exclude")
    )
    return replace(layer, value=replace(layer.value, fields=tuple(fields)))


def _aside(blob: str) -> str:
    return f"{blob} (unused)"


def _renamed(top: Field, names: Mapping[str, str]) -> Field:
    value = top.value
    if not isinstance(value, Scalar) or value.text not in names:
        return top
    return replace(top, value=replace(value, text=names[value.text]))


def _silence(blob: str, span: Span) -> Field:
    """A layer that reads the blob which stands aside, lest it be an output."""
    return _layer("Silence", "bottom", _aside(blob), _aside(blob), span)


def _layer(type_: str, way: str, blob: str, name: str, span: Span) -> Field:
    """A layer with one blob, its `top` or its `bottom`."""
    given = {"name": name, "type": type_, way: blob}
    fields = (Field(n, Scalar("string", t, span), span) for n, t in given.items())
    return Field("layer", Message(tuple(fields), span), span)
