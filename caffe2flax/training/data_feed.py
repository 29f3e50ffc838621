"""One source of a net's batches, and the text of a function that returns them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import literal
from caffe2flax.ir.layout import Shape

IMAGES = (0, 2, 3, 1)
"""The axes of images as they are read: N, H, W, C."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One source of a net's batches, as text.

    path: the expression of what `source` is by default, None for none. source: the one
    that reads `source`. record: names that a record is taken apart into. blobs: by top,
    the expression of its array for one item. axes: the order of Caffe's axes in it,
    where that is not Caffe's. before: lines in front, for all records.
    """

    tops: tuple[str, ...]
    path: str | None
    source: str
    record: str
    blobs: Mapping[str, str]
    batch: int
    what: str
    axes: Mapping[str, tuple[int, ...]]
    before: tuple[str, ...] = ()
    shuffle: bool = False
    joined: tuple[str, ...] = ()
    """Tops of which an item has several rows."""

    def shape(self, top: str, size: int, item: Shape) -> Shape:
        """Caffe's shape of a batch of `size` items, each of the shape `item`."""
        if top in self.joined:
            return (size * item[0], *item[1:])
        axes = self.axes.get(top, tuple(range(len(item) + 1)))
        return (size, *(item[axes.index(i) - 1] for i in range(1, len(axes))))

    def function(
        self,
        name: str,
        axes: Mapping[str, Sequence[int]],
        blobs: Collection[str] | None,
        whole: bool = True,
    ) -> str:
        """The definition of a function that returns the batches; not `whole`: without
        reading ahead. axes: by blob, the order of Caffe's axes."""
        tops = [top for top in self.tops if blobs is None or top in blobs]
        items = (f"{literal(top)}: {self._item(top, axes)}" for top in tops)
        lines = [
            *self.before,
            "",
            "def prepare(record: Any, rng: np.random.Generator) -> dict[str, Any]:",
            *([f"    {self.record}"] if self.record else []),
            f"    return {{{', '.join(items)}}}",
            "",
        ]
        call = (
            f"batches({self.source}, prepare, {self.batch}, seed=seed, shuffle=shuffle)"
        )
        joined = tuple(top for top in self.joined if top in tops)
        if joined:
            call = f"join({call}, {literal(joined)})"
        lines.append(
            f"return read_ahead({call}, workers=workers)" if whole else f"return {call}"
        )
        given = []
        if self.path is not None:
            given.append(f"source: str = {self.path}")
        parameters = [*given, "*", "seed: int = 0", f"shuffle: bool = {self.shuffle}"]
        parameters += ["workers: int = 0"] * whole
        head = f"def {name}({', '.join(parameters)}) -> Any:"
        about = f'"""Batches of {self.batch}: {self.what}."""'
        body = "\n".join(f"    {line}" if line else "" for line in (about, *lines))
        return f"{head}\n{body}\n"

    def _item(self, top: str, axes: Mapping[str, Sequence[int]]) -> str:
        """The expression of an item with its axes in the order of `axes`."""
        text = self.blobs[top]
        wanted = tuple(axes.get(top, ()))
        have = self.axes.get(top, tuple(range(len(wanted))))
        if not wanted or wanted == have:
            return text
        if wanted[0]:
            raise ConversionError(f"blob {top!r}: the batch is not its first axis")
        places = [have.index(i) for i in wanted]
        if top not in self.joined:
            places = [place - 1 for place in places[1:]]
        return f"{text}.transpose({', '.join(map(str, places))})"


def arrays_feed(path: str, tops: Mapping[str, int]) -> Feed:
    """The text for arrays by blob, with the batch size of each. They are taken as they
    are: `transform_param` is for images."""
    size = gcd(*tops.values())
    rows = {top: batch // size for top, batch in tops.items() if batch != size}
    given = f", rows={rows!r}" if rows else ""
    return Feed(
        tuple(tops),
        path,
        f"Arrays(load_arrays(source, {literal(tuple(tops))}){given})",
        "",
        {top: f"record[{literal(top)}]" for top in tops},
        size,
        "items of arrays",
        {},
        joined=tuple(rows),
    )


def functions(
    feeds: Sequence[Feed],
    name: str,
    axes: Mapping[str, Sequence[int]],
    blobs: Collection[str] | None,
) -> str:
    """The text of a function for all feeds; several have a function each."""
    if len(feeds) == 1:
        return feeds[0].function(name, axes, blobs)
    numbered = [(f"{name}_{i}", each) for i, each in enumerate(feeds, 1)]
    parts = [each.function(own, axes, blobs, whole=False) for own, each in numbered]
    calls = ", ".join(f"{own}(seed=seed, shuffle=shuffle)" for own, _ in numbered)
    shuffled = any(each.shuffle for each in feeds)
    parameters = f"*, seed: int = 0, shuffle: bool = {shuffled}, workers: int = 0"
    parts.append(
        f"def {name}({parameters}) -> Any:\n"
        f'    """Batches of all data layers."""\n'
        f"    return read_ahead(merge({calls}), workers=workers)\n"
    )
    return "\n\n".join(parts)


def number(value: float) -> str:
    """The shortest literal of the same float32."""
    stored = np.float32(value)
    return repr(float(str(stored))) if np.isfinite(stored) else f'float("{stored}")'
