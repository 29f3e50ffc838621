"""The blobs of a net: which value each bottom reads and each top makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from caffe2flax.errors import Problem, Span, closest
from caffe2flax.ir.graph import Node, Value
from caffe2flax.ir.params import Params
from caffe2flax.options import one_or_more


@dataclass(slots=True)
class Blobs:
    """The values so far, and problems with them."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """By blob, which layer makes it that the filter left out, and how to keep that."""
    latest: dict[str, Value] = field(default_factory=dict)
    """The last version of each blob."""
    reads: Counter[Value] = field(default_factory=Counter)
    overwritten: dict[Value, tuple[str, Span]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def connect(
        self, bottoms: Sequence[str], name: str, params: Params
    ) -> tuple[Value, ...]:
        inputs = []
        for blob, span in zip(bottoms, _fields(params, "bottom"), strict=False):
            value = self.latest.get(blob)
            if value is None:
                hint = closest(blob, self.latest, self.problems)
                hint = hint or f"; --input-shape {blob}=N,... makes it an input"
                hint = self.left_out.get(blob) or f"which no layer makes{hint}"
                text = f"layer {name!r} reads blob {blob!r}, {hint}"
                self.problems.append(Problem(text, span))
                value = self.latest.setdefault(blob, Value(blob))
            self.reads[value] += 1
            inputs.append(value)
        return tuple(inputs)

    def produce(
        self,
        tops: Sequence[str],
        bottoms: Sequence[str],
        inputs: Sequence[Value],
        name: str,
        span: Span,
    ) -> tuple[Value, ...]:
        outputs = []
        for i, blob in enumerate(tops):
            in_place = i < len(bottoms) and bottoms[i] == blob
            old = self.latest.get(blob)
            if old is not None and not in_place:
                self._report_duplicate(blob, name, span)
            if in_place:
                self.overwritten[inputs[i]] = (name, span)
            value = Value(blob, old.version + 1 if old else 0)
            self.latest[blob] = value
            outputs.append(value)
        return tuple(outputs)

    def _report_duplicate(self, blob: str, name: str, span: Span) -> None:
        text = f"layer {name!r} makes blob {blob!r}, which another layer makes already"
        self.problems.append(Problem(text, span))

    def check_in_place(self) -> None:
        """An in-place layer must be the only reader of its bottom: Caffe splits a blob
        with several readers into copies."""
        for value, (name, span) in self.overwritten.items():
            if self.reads[value] > 1:
                text = (
                    f"layer {name!r} overwrites blob {value.blob!r}, which another "
                    "layer reads too (in Caffe: produced by multiple sources)"
                )
                self.problems.append(Problem(text, span))

    def find_taps(
        self, nodes: Sequence[Node], taps: Sequence[str] | str
    ) -> tuple[Value, ...]:
        """The values that `taps` name; "all" is every blob that a layer computes."""
        computed = {v.blob: None for node in nodes for v in node.outputs}
        names = list(one_or_more(taps))
        if names == ["all"] and "all" not in self.latest:
            names = list(computed)
        for name in names:
            if name not in self.latest:
                text = f"no blob is called {name!r}{closest(name, self.latest)}"
                self.problems.append(Problem(text))
        return tuple(self.latest[name] for name in names if name in self.latest)

    def outputs(self) -> tuple[Value, ...]:
        """The values that no layer reads, inputs included, in the order of the file."""
        return tuple(v for v in self.latest.values() if not self.reads[v])


def _fields(params: Params, name: str) -> Iterable[Span]:
    assert params.message is not None, "a layer that was read"
    return (f.span for f in params.message.all(name))
