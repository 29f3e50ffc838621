"""What a net and a weights file hold, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from caffe2flax.inspection.net import (
    BlobFacts,
    Inspection,
    LayerFacts,
    PaddingFacts,
    WeightsInspection,
)
from caffe2flax.inspection.tables import Column, by, short, size, table
from caffe2flax.inspection.where import LayerLocation, Passage

Pairs = tuple[tuple[int, int], ...]

LONGEST = 12
"""Lines of a passage that are shown."""


def show_inspection(found: Inspection) -> str:
    """Layers, totals, inputs and outputs, padding, shared weights, what is left out."""
    parts = [
        _layers(found.layers),
        "\n".join(_totals(found)),
        "\n".join([*_ends("input", found.inputs), *_ends("output", found.outputs)]),
        _paddings(found.padding),
        "\n".join(_rest(found)),
    ]
    return "\n\n".join(part for part in parts if part)


def _layers(layers: Iterable[LayerFacts]) -> str:
    columns = (
        Column("layer"),
        Column("type"),
        Column("output"),
        Column("order"),
        Column("params", "right"),
        Column("MACs", "right"),
        Column("memory", "right"),
    )
    rows = (
        (
            layer.name,
            layer.type,
            by(layer.shape),
            layer.order,
            short(layer.parameters),
            short(layer.multiply_adds),
            short(layer.memory),
        )
        for layer in layers
    )
    return table(columns, rows)


def _totals(found: Inspection) -> Iterator[str]:
    batch = found.inputs[0].shape[:1] if found.inputs else ()
    images = f" for a batch of {batch[0]}" if batch and batch[0] > 1 else ""
    yield (
        f"{found.name}, {found.phase}: {len(found.layers):,} layers, "
        f"{found.parameters:,} parameters"
    )
    macs = f"{found.multiply_adds:,}"
    yield f"{macs} multiply-adds, {size(found.memory)} of activations{images}"


def _ends(what: str, blobs: Sequence[BlobFacts]) -> Iterator[str]:
    for blob in blobs:
        yield (
            f"{what} {blob.name}: {by(blob.shape)} in Caffe, {by(blob.emitted)} "
            f"({blob.order}) here"
        )
        if blob.preparation:
            yield f"  as Caffe prepares it: {blob.preparation}"


def _paddings(padding: Sequence[PaddingFacts]) -> str:
    """Low and high pads, of all axes or, where they differ, height x width; windows
    that are alike in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for found in padding:
        emitted = found.emitted
        facts = (
            pairs(found.caffe),
            pairs(found.same),
            emitted if isinstance(emitted, str) else pairs(emitted),
            found.reason,
        )
        alike.setdefault(facts, []).append(found.name)
    if not alike:
        return ""
    columns = [Column(title) for title in ("Caffe", "SAME", "here", "why", "windows")]
    return table(columns, ((*facts, ", ".join(x)) for facts, x in alike.items()))


def pairs(padding: Pairs) -> str:
    """3,3 where all axes agree, else 3,3 x 2,3."""
    each = [f"{low},{high}" for low, high in padding]
    return each[0] if len(set(each)) == 1 else " x ".join(each) or "-"


def _rest(found: Inspection) -> Iterator[str]:
    for shared in found.shared:
        owner, *others = shared.layers
        yield (
            f"shared: blob {shared.index} of {owner}, {by(shared.shape)}, with "
            f"{', '.join(others)}"
        )
    for dropped in found.dropped:
        where = f" (line {dropped.line})" if dropped.line else ""
        yield f"left out: {dropped.name} ({dropped.type}){where}: {dropped.reason}"
    yield from (f"note: {note}" for note in found.notes)


def show_weights(found: WeightsInspection) -> str:
    """Every blob, and what the file is."""
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
        for b in found.blobs
    )
    name = f" of {found.name}" if found.name else ""
    net = (
        f"carries its net, {found.net:,} layers: it converts without a prototxt"
        if found.net
        else f"does not carry its net: {found.problem}"
    )
    return "\n".join(
        [
            table(columns, rows),
            "",
            f"{found.path}: format {found.version}{name}, {size(found.size)}",
            f"{found.layers:,} layers, {len(found.blobs):,} blobs, "
            f"{found.parameters:,} parameters",
            net,
            *(f"note: {note}" for note in found.notes),
        ]
    )


def show_locations(found: Iterable[LayerLocation]) -> str:
    """Each layer with its passages, those of many layers in the same lines once."""
    parts: list[str] = []
    for entry in found:
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
