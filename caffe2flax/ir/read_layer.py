"""A layer's messages -> the layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.common_fields import COMMON_FIELDS, check_blobs
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import PARAMETERS, find_variant
from caffe2flax.ir.unread import report_unread


def is_data(cls: type[Layer] | None) -> bool:
    """Whether layers of this class read data, which is not the module's part."""
    return cls is not None and issubclass(cls, Source) and cls.reads_data


def read_layer(
    params: Params,
    type_: str,
    cls: type[Layer],
    bottoms: Sequence[str],
    tops: Sequence[str],
    stub: type[Layer] | None = None,
) -> Layer | None:
    """The layer of `type_` with the fields of its messages; None where something is
    wrong with them, which `params` then has as problems. `stub`: the class for a layer
    that is not supported, if any."""
    assert params.message is not None
    own, *others = PARAMETERS.get(type_) or ("",)
    known = {name for names in PARAMETERS.values() for name in names}
    params.ignore(*COMMON_FIELDS, *others)
    for name in dict.fromkeys(f.name for f in params.message.fields):
        if name in known and name not in (own, *others):
            params.ignore(name)
            params.note(
                f"{params.span()}: {name} has no meaning in a {type_} layer; Caffe "
                "passes it over, and so do we"
            )
    params.bottoms, params.tops = len(bottoms), len(tops)
    params.in_place = bool(set(bottoms) & set(tops))
    bare = replace(params, name=type_, message=None, parent=params)
    main = params.sub(own) if own else bare
    cls = find_variant(type_, main) or cls
    check_blobs(params, type_, cls, bottoms, tops)
    before = len(params.problems)
    layer: Layer | None = None
    try:
        layer = cls.parse(main)
    except ConversionError as error:
        params.problems += [p.at(params.span()) for p in error.problems]
    found = params.problems[before:]
    if stub and found and all(p.kind == "unsupported" for p in found):
        del params.problems[before:]
        return stub.parse(bare)
    if layer is None:
        return None
    if type(layer) is not cls:  # one of several meanings of the type
        check_blobs(params, type_, type(layer), bottoms, tops)
    if params.in_place and not layer.in_place:
        params.error(None, f"a {type_} layer cannot work in place")
    return layer if len(params.problems) == before else None


def read_metric(
    params: Params,
    type_: str,
    cls: type[Layer],
    bottoms: Sequence[str],
    tops: Sequence[str],
    dropped: type[Layer],
) -> Layer | None:
    """A loss or a score of labels from data, which the net as TEST leaves out: one of
    class `dropped` where something about it is not supported."""
    before = len(params.problems)
    layer = read_layer(params, type_, cls, bottoms, tops)
    report_unread(params)
    found = params.problems[before:]
    assert params.message is not None
    params.ignore(*(field.name for field in params.message.fields))
    params.children.clear()  # what they lack is reported
    if found and all(p.kind == "unsupported" for p in found):
        del params.problems[before:]
        said = "; ".join(problem.message for problem in found)
        text = f"{type_} compares with labels, which the net at test does not have"
        params.note(f"{params.span('type')}: {text}: left out as it is ({said})")
        return dropped.parse(replace(params, name=type_, message=None, parent=params))
    return layer
