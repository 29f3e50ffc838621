"""The facts about a net or a weights file, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from caffe2flax.inspection.net import (
    TITLES,
    BlobFacts,
    Inspection,
    LayerFacts,
    PaddingFacts,
)
from caffe2flax.inspection.tables import Column, by, size, table
from caffe2flax.inspection.weights import WeightsInspection
from caffe2flax.inspection.where import LayerLocation, Passage

Pairs = tuple[tuple[int, int], ...]

MOST_NAMES = 6
"""How many windows with the same padding are named."""

LONGEST = 12
"""How many lines of a passage are shown."""


def show_inspection(net: Inspection) -> str:
    """Layers, totals, inputs and outputs, padding, shared weights, dropped layers."""
    parts = [
        _layers(net.layers),
        "\n".join(_totals(net)),
        "\n".join([*_ends("input", net.inputs), *_ends("output", net.outputs)]),
        _paddings(net.padding),
        "\n".join(_rest(net)),
    ]
    return "\n\n".join(part for part in parts if part)


def _layers(layers: Iterable[LayerFacts]) -> str:
    numbers = ("params", "MACs", "memory")
    columns = [Column(x, "right") if x in numbers else Column(x) for x in TITLES]
    return table(columns, (layer.row() for layer in layers))


def _totals(net: Inspection) -> Iterator[str]:
    batch = net.inputs[0].shape[:1] if net.inputs else ()
    images = f" for a batch of {batch[0]}" if batch and batch[0] > 1 else ""
    yield (
        f"{net.name}, {net.phase}: {len(net.layers):,} layers, "
        f"{net.parameters:,} parameters"
    )
    macs = f"{net.multiply_adds:,}"
    yield f"{macs} multiply-adds, {size(net.memory)} of activations{images}"


def _ends(what: str, blobs: Sequence[BlobFacts]) -> Iterator[str]:
    for blob in blobs:
        yield (
            f"{what} {blob.name}: {by(blob.shape)} in Caffe, {by(blob.emitted)} "
            f"({blob.order}) here"
        )
        if blob.preparation:
            yield f"  as Caffe prepares it: {blob.preparation}"


def _paddings(padding: Sequence[PaddingFacts]) -> str:
    """The paddings as a table: low and high pads, for all axes or, where they differ,
    height x width; layers with the same padding in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for layer in padding:
        emitted = layer.emitted
        facts = (
            pairs(layer.caffe),
            pairs(layer.same),
            emitted if isinstance(emitted, str) else pairs(emitted),
            layer.reason,
        )
        alike.setdefault(facts, []).append(layer.name)
    if not alike:
        return ""
    columns = [Column(title) for title in ("Caffe", "SAME", "here", "why", "windows")]
    return table(columns, ((*facts, _few(x)) for facts, x in alike.items()))


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are: JSON has all."""
    shown = ", ".join(names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def pairs(padding: Pairs) -> str:
    """Pads as text: 3,3 where all axes have the same, otherwise 3,3 x 2,3."""
    each = [f"{low},{high}" for low, high in padding]
    return each[0] if len(set(each)) == 1 else " x ".join(each) or "-"


def _rest(net: Inspection) -> Iterator[str]:
    for shared in net.shared:
        owner, *others = shared.layers
        yield (
            f"shared: blob {shared.index} of {owner}, {by(shared.shape)}, with "
            f"{', '.join(others)}"
        )
    for dropped in net.dropped:
        where = f" (line {dropped.line})" if dropped.line else ""
        yield f"left out: {dropped.name} ({dropped.type}){where}: {dropped.reason}"
    yield from (f"note: {note}" for note in net.notes)


def show_weights(file: WeightsInspection) -> str:
    """The file, and all its blobs as a table."""
    columns = (
        Column("layer"),
        Column("type"),
        Column("blob", "right"),
        Column("shape"),
        Column("dtype"),
        Column("size", "right"),
    )
    rows = (
        (b.layer, b.type, b.index, by(b.shape), b.dtype, size(b.size))
        for b in file.blobs
    )
    name = f" of {file.name}" if file.name else ""
    net = (
        f"carries its net, {file.net:,} layers: it converts without a prototxt"
        if file.net
        else f"does not carry its net: {file.problem}"
    )
    return "\n".join(
        [
            table(columns, rows),
            "",
            f"{file.path}: format {file.version}{name}, {size(file.size)}",
            f"{file.layers:,} layers, {len(file.blobs):,} blobs, "
            f"{file.parameters:,} parameters",
            net,
            *(f"note: {note}" for note in file.notes),
        ]
    )


def show_locations(locations: Iterable[LayerLocation]) -> str:
    """Each layer with its passages; the same lines of several layers once."""
    parts: list[str] = []
    for entry in locations:
        note = f", {entry.note}" if entry.note else ""
        parts.append(f"{entry.name} ({entry.type}){note}")
        parts += [line for passage in entry.passages for line in _passage(passage)]
        parts.append("")
    return "\n".join(parts[:-1])


def _passage(passage: Passage) -> Iterator[str]:
    span = f"{passage.first}"
    if passage.last > passage.first:
        span += f"-{passage.last}"
    what = "" if passage.role == "prototxt" else f" {passage.role}"
    where = f" in {passage.cls}" if passage.cls else ""
    yield f"  {passage.file}:{span}{what}{where}"
    lines = passage.text.splitlines() or [""]
    margin = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    for line in lines[:LONGEST]:
        yield f"    {line[margin:]}"
    if len(lines) > LONGEST:
        yield f"    ... {len(lines) - LONGEST} more lines"
