"""A net up to some of its blobs, and the blobs at which one can be cut to be converted.

data -> conv1 -> fc6 -> fc7 -> Unknown -> prob       until fc7: data -> ... -> fc7
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.registry import find_layer

MOST_ENDS = 8
"""With more blobs at which a net would have to be cut, none is offered."""


def up_to(
    net: Message, blobs: Sequence[str], left_out: Mapping[str, str] | None = None
) -> Message:
    """The V2 net `net` with those layers alone by which `blobs` are computed, in their
    last versions; all layers without `blobs`.

    left_out: for blobs of layers that a filter left out, what to say of them. Raises
    ConversionError for a blob that no layer makes.
    """
    if not blobs:
        return net
    layers = [f for f in net.fields if f.name == "layer"]
    made = {top for field in layers for top in _blobs(field, "top")}
    others = left_out or {}
    problems = [
        Problem(
            f"the net is to end at {blob!r}, "
            + (others.get(blob) or f"which no layer makes{closest(blob, made)}")
        )
        for blob in blobs
        if blob not in made
    ]
    if problems:
        raise ConversionError(problems)
    needed = set(blobs)
    kept: set[int] = set()
    for field in reversed(layers):
        tops = _blobs(field, "top")
        if needed.isdisjoint(tops):
            continue
        kept.add(id(field))
        needed.difference_update(tops)
        needed.update(_blobs(field, "bottom"))
    fields = (f for f in net.fields if f.name != "layer" or id(f) in kept)
    return replace(net, fields=tuple(fields))


def check_ends(graph: Graph, blobs: Sequence[str]) -> None:
    """Raises ConversionError for one of `blobs` that the graph, after all passes, does
    not return."""
    returned = {value.blob for value in graph.outputs}
    reasons = {
        value.blob: dropped.reason
        for dropped in graph.remarks.dropped
        for value in dropped.node.outputs
    }
    problems = [
        Problem(
            f"the net is to end at {blob!r}, which is not computed in {graph.phase}: "
            + reasons.get(blob, "the layers before it are left out")
        )
        for blob in blobs
        if blob not in returned
    ]
    if problems:
        raise ConversionError(problems)


def advice(
    net: Message,
    problems: Sequence[Problem],
    convert: Callable[[Message, Sequence[str]], object],
) -> tuple[str, ...]:
    """What may be done about the unsupported layers of a net, a line each.

    convert: raises ConversionError for a net that is none up to some blobs.
    """
    if not any(p.kind == "unsupported" and p.line for p in problems):
        return ()
    lines = (
        "a plug-in (--plugin) may give what an unsupported layer computes, and "
        "--stub-unsupported leaves it to be filled in",
    )
    for ends in ends_before(net, problems):
        try:
            convert(up_to(net, ends), ends)
        except ConversionError as error:
            if any(p.kind != "ambiguous" for p in error.problems):
                continue
        words = " ".join(f"--until {blob}" for blob in ends)
        return (f"{words} leaves out what is unsupported", *lines)
    return lines


def ends_before(
    net: Message, problems: Iterable[Problem]
) -> tuple[tuple[str, ...], ...]:
    """The blobs up to which the V2 net `net` may be without these problems, which are
    those of unsupported layers: all blobs that no layer without a problem reads, and
    all that layers with one read. () where there are other problems, or no such blobs.

    Where layers with weights are left, the blobs are those that such layers lead to.
    """
    layers = [f for f in net.fields if f.name == "layer"]
    # Of layers at one place, which stand for one line of the file, the first.
    starts = sorted((f.span.line, f.span.column, -i) for i, f in enumerate(layers))
    files = {f.span.file for f in layers}
    wrong: set[int] = set()
    for problem in problems:
        span = problem.span
        if problem.kind != "unsupported" or span is None or {span.file} != files:
            return ()
        place = bisect_right(starts, (span.line, span.column, 1)) - 1
        if place < 0 or not span.line:
            return ()
        wrong.add(-starts[place][2])
    # An unknown type is reported once for all of its layers.
    unknown = {_type(layers[i]) for i in wrong if _class(layers[i]) is None}
    wrong |= {i for i, field in enumerate(layers) if _type(field) in unknown}
    traced = _Traced()
    for number, field in enumerate(layers):
        traced.add(field, number in wrong)
    known = dict.fromkeys((*traced.computed, *traced.wanted))
    learned = any(blob in traced.learned for blob in known if blob not in traced.lost)
    found = (
        tuple(
            blob
            for blob in blobs
            if blob not in traced.lost and (blob in traced.learned or not learned)
        )
        for blobs in (traced.computed, traced.wanted)
    )
    return tuple(ends for ends in found if 0 < len(ends) <= MOST_ENDS)


class _Traced:
    """What becomes of each blob, layer by layer."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        """Blobs that a layer with a problem, or one behind it, makes."""
        self.computed: dict[str, None] = {}
        """Other blobs that a layer with bottoms makes, and that none of these reads."""
        self.wanted: dict[str, None] = {}
        """Blobs that such a layer makes and that one with a problem reads."""
        self.made: set[str] = set()
        """All blobs that such a layer makes."""
        self.learned: set[str] = set()
        """Blobs that layers with weights lead to."""

    def add(self, field: Field, wrong: bool) -> None:
        bottoms, tops = _blobs(field, "bottom"), _blobs(field, "top")
        if wrong:
            made = (blob for blob in bottoms if blob in self.made)
            self.wanted.update(dict.fromkeys(made))
        if wrong or not self.lost.isdisjoint(bottoms):
            self.lost.update(tops)
            return
        self.lost.difference_update(tops)
        if not bottoms or not tops:
            return
        self.made.update(tops)
        for blob in bottoms:
            self.computed.pop(blob, None)
        self.computed.update(dict.fromkeys(tops))
        if _has_weights(field) or not self.learned.isdisjoint(bottoms):
            self.learned.update(tops)


def _has_weights(field: Field) -> bool:
    cls = _class(field)
    return cls is not None and cls.blobs is not Layer.blobs


def _class(field: Field) -> type[Layer] | None:
    return find_layer(_type(field), len(_blobs(field, "bottom")))


def _type(field: Field) -> str:
    return "".join(_blobs(field, "type"))


def _blobs(layer: Field, name: str) -> list[str]:
    if not isinstance(layer.value, Message):
        return []
    values = (f.value for f in layer.value.all(name))
    return [value.text for value in values if isinstance(value, Scalar)]
